"""Game: what it passes on, counts and refuses."""

import numpy as np
import pytest

import shapkit
from shapkit.coalitions import members_of_masks
from shapkit.games import Game, players_of_table, table_game, weighted_voting

ALL_OF_THREE = members_of_masks(np.arange(8), 3)


def test_batches_are_no_larger_than_asked_and_all_are_counted():
    seen = []

    def value(coalitions):
        seen.append(len(coalitions))
        return coalitions.sum(axis=1)

    game = Game(value, 3, batch_size=3)
    np.testing.assert_array_equal(game(ALL_OF_THREE), ALL_OF_THREE.sum(axis=1))
    assert seen == [3, 3, 2] and game.n_evaluations == 8
    game(ALL_OF_THREE[:2])
    assert seen == [3, 3, 2, 2] and game.n_evaluations == 10


@pytest.mark.parametrize("batch_size", [None, 1, 5, 8, 100])
def test_vector_payoffs_for_every_batch_size(batch_size):
    table = np.arange(48.0).reshape(8, 2, 3)
    game = table_game(table, batch_size=batch_size)
    payoffs = game(ALL_OF_THREE)
    np.testing.assert_array_equal(payoffs, table)
    assert payoffs.dtype == np.float64 and game.output_shape == (2, 3)


@pytest.mark.parametrize("convert", [list, tuple, np.float32, np.int8, lambda payoffs: payoffs > 1])
def test_payoffs_of_other_types_become_float64(convert):
    payoffs = Game(lambda coalitions: convert(coalitions.sum(axis=1)), 3)(ALL_OF_THREE)
    assert payoffs.dtype == np.float64
    np.testing.assert_array_equal(payoffs, np.asarray(convert(ALL_OF_THREE.sum(axis=1)), dtype=float))


def test_a_value_function_may_write_to_its_argument():
    def value(coalitions):
        coalitions[:] = False
        return np.ones(len(coalitions))

    given = ALL_OF_THREE.copy()
    Game(value, 3)(given)
    np.testing.assert_array_equal(given, ALL_OF_THREE)


def test_names():
    assert Game(np.ndarray.any, 2).names == ("0", "1")
    game = Game(np.ndarray.any, 2, names=["eyes", "nose"])
    assert game.names == ("eyes", "nose")
    assert [game.player_index(player) for player in ("nose", 0, np.int64(1))] == [1, 0, 1]


def test_weighted_voting_by_hand():
    game = weighted_voting([2, 1, 1], quota=3, names=["a", "b", "c"])
    assert game(ALL_OF_THREE).tolist() == [0, 0, 0, 1, 0, 1, 0, 1]
    assert repr(game) == "Game(n_players=3, output_shape=(), batch_size=None)"


def test_players_of_table():
    assert [players_of_table(np.zeros(2**n)) for n in range(1, 6)] == [1, 2, 3, 4, 5]


def returning(payoffs):
    return lambda: Game(lambda coalitions: payoffs, 3)(ALL_OF_THREE)


def changing_shape():
    game = Game(lambda coalitions: np.zeros((len(coalitions), len(coalitions))), 3, batch_size=6)
    return game(ALL_OF_THREE)


def nan_for_two(coalitions):
    return np.where(coalitions[:, 0] & coalitions[:, 2], np.nan, 1.0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Game(3, 2), "value must be a function of a boolean matrix, got int"),
        (lambda: Game(len, 0), "n_players must be an integer of at least 1, got 0"),
        (lambda: Game(len, 2.0), "n_players must be an integer of at least 1, got 2.0"),
        (lambda: Game(len, True), "n_players must be an integer of at least 1, got True"),
        (lambda: Game(len, 2, batch_size=0), "batch_size must be an integer of at least 1, got 0"),
        (lambda: Game(len, 2, names=["a"]), "names has 1 entries, expected one for each of the 2 players"),
        (lambda: Game(len, 3, names=["a", "b", "a"]), "names must be distinct, got 'a' more than once"),
        (lambda: Game(len, 2, names="ab"), "names must be a list of strings, got 'ab'"),
        (lambda: Game(len, 2, names=["a", 1]), "names must be a list of strings"),
        (
            lambda: Game(len, 3)(ALL_OF_THREE[0]),
            r"coalitions has shape \(3,\), .* give one coalition as coalition\[None",
        ),
        (
            lambda: Game(len, 4)(ALL_OF_THREE),
            r"coalitions has shape \(8, 3\), expected a boolean matrix \(n_coalitions, 4",
        ),
        (lambda: Game(len, 3)(ALL_OF_THREE[:0]), r"coalitions has shape \(0, 3\), .* at least one row"),
        (lambda: Game(len, 3)(ALL_OF_THREE.astype(int)), r"coalitions has dtype int64, .* \.astype\(bool\)"),
        (returning(1.0), r"value returned shape \(\) for 8 coalitions, expected \(8, ...\)"),
        (returning(np.zeros(7)), r"value returned shape \(7,\) for 8 coalitions, expected \(8, ...\)"),
        (
            returning(np.zeros((8, 0))),
            r"value returned shape \(8, 0\): a payoff must have at least one element",
        ),
        (returning([[1], [1, 2]]), "value returned something NumPy cannot convert to an array"),
        (returning(np.zeros(8, complex)), "value returned dtype complex128, expected real numbers"),
        (returning(["1"] * 8), "value returned dtype <U1, expected real numbers"),
        (returning(None), "value returned dtype object, expected real numbers"),
        (changing_shape, r"payoffs of shape \(2,\), expected \(6,\) as in its first evaluation"),
        (
            lambda: Game(nan_for_two, 3, ["eyes", "nose", "hair"])(ALL_OF_THREE),
            r"NaN or infinity for 2 of 8 coalitions, expected finite numbers; the first is \{eyes, hair\}",
        ),
        (returning(np.full(8, np.inf)), r"NaN or infinity for 8 of 8 coalitions, .* the first is \{\}"),
        (lambda: Game(len, 2).player_index("mouth"), "player 'mouth' is not among the names 0, 1"),
        (lambda: Game(len, 2).player_index(2), "player 2 is out of range, expected 0 to 1"),
        (lambda: Game(len, 2).player_index(-1), "player -1 is out of range, expected 0 to 1"),
        (lambda: Game(len, 2).player_index(0.5), "player must be a name or an index, got 0.5"),
        (lambda: table_game([1, 2, 3]), r"values has shape \(3,\), expected \(2\*\*n_players, ...\)"),
        (lambda: table_game([1]), r"values has shape \(1,\), expected"),
        (lambda: table_game(5.0), r"values has shape \(\), expected"),
        (lambda: table_game(["a", "b"]), "values holds dtype <U1, expected real numbers"),
        (
            lambda: table_game([0, 1, 2, 3], names=["a"]),
            "names has 1 entries, expected one for each of the 2",
        ),
        (lambda: weighted_voting([[1, 2]], 1), "weights must be a list of finite numbers, one per player"),
        (lambda: weighted_voting([], 1), "weights must be a list of finite numbers"),
        (lambda: weighted_voting([1, np.inf], 1), "weights must be a list of finite numbers"),
        (lambda: weighted_voting([1, 2], np.nan), "quota must be a finite number, got nan"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_failed_evaluations_stop_every_way_in():
    game = Game(nan_for_two, 3)
    for run in (shapkit.exact, shapkit.explain, lambda game: shapkit.estimate(game, 50)):
        with pytest.raises(ValueError, match="value returned NaN"):
            run(game)
