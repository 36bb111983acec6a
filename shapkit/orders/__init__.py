"""Random orders of the players that are not all equally likely: what hierarchies, weights and precedence mean.

A player's Shapley value is what it adds to those before it, in the mean over all orders of the players. Where only some
orders make sense, or some are likelier, the mean over those is another value (Weber 1988): Owen's and Winter's for
players in groups, the weighted Shapley value, the asymmetric one for players of whom some must come first.
"""

from shapkit.orders.base import Orders
from shapkit.orders.hierarchy import Hierarchy
from shapkit.orders.precedence import Precedence
from shapkit.orders.weights import Weights

__all__ = ["Hierarchy", "Orders", "Precedence", "Weights"]
