"""Games: players and a value function, which is evaluated in batches, counted, checked and remembered in one place."""

from shapkit.games.cache import CoalitionCache
from shapkit.games.classic import airport_game, bankruptcy_game, glove_game, unanimity_sum, weighted_voting
from shapkit.games.executors import RestartingExecutor
from shapkit.games.game import Game, table_game
from shapkit.games.model_game import model_game

__all__ = [
    "CoalitionCache",
    "Game",
    "RestartingExecutor",
    "airport_game",
    "bankruptcy_game",
    "glove_game",
    "model_game",
    "table_game",
    "unanimity_sum",
    "weighted_voting",
]
