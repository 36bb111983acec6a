"""Games that are short polynomials of their players, found from pairs of coalitions.

With x_j = +1 for members and -1 for the others, every game is a polynomial Σ_T c_T Π_{j∈T} x_j, with a term for each
of the 2**n_players coalitions T: its Walsh or Fourier expansion. Sums of unanimity games, rules and shallow trees need
few of them. The terms of odd size are the odd part of the game, (v(S) - v(N\\S)) / 2, and the others the even part; a
coalition and its complement are an observation of each.

The search is orthogonal matching pursuit (Pati, Rezaiifar and Krishnaprasad 1993) with heredity (Chipman 1996): larger
terms are looked for where smaller ones have been found, in both parts of the game, since what players do jointly shows
in both. That finds terms which the odd part alone, as of OddSHAP (Fumagalli and others 2026), would not point to.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr, solve_triangular

from shapkit.coalitions import Coalitions
from shapkit.estimators.threads import one_thread
from shapkit.estimators.unanimity import few_unanimity_games
from shapkit.kernels import compiled

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_SEARCHED = 1_280
"""Pairs, the first ones, that a polynomial is looked for in; it is compared with the others."""

MOST_OUTPUTS = 256
"""Of games with more, none is looked for: all of them would have to be kept and fitted."""

_DISTINCT = 2.5  # standard errors, at least, that a new term differs from 0 by
_BEYOND_CHANCE = 0.5  # standard errors, more than the largest of as many would have by chance
_AMONG_LARGEST = 0.4  # of the largest of them: the others are looked at again once these are fitted
_FEW_TERMS = 200  # take no time
_PATIENCE, _SLOW = 4, 0.6  # a search ends where so many rounds leave more than this of what was left
_DEPENDENT = 1e-4  # of its length, at most, is left of a term that the others make up
_SOLVED = 1e-11  # relative: what is left of payoffs is rounding
_SAME = 1e-9  # the same, of payoffs that were not fitted
_BLOCK_FLOATS = 2**22  # of products held at once, about
_BLOCK_TERMS = 256
_PAIRS_PER_TERM, _MORE_PAIRS = 1.5, 16  # of which there must be more than that to be sure of a polynomial
_FEW_VALUES, _MORE_BITS = 3, 20.0  # different sizes of payoffs, at most, in a voting game
_MOST_ALIKE = 0.75  # of its pairs, if it is to be taken for a polynomial: rare ones say little of what is rarer
_PER_EXCEPTION = 4.0  # largest payoffs: a pair's may change twice as much, and players' values by twice its share
_MOST_GUIDING = 8  # outputs that the search looks at


@dataclass(frozen=True)
class Polynomial:
    """A game that is a sum of products of players' signs, +1 for members and -1 for the others.

    Attributes:
        parents: int64 (n_terms,), the earlier term that each is a product of, and of a player; -1 for the constant,
            which is term 0.
        players: int64 (n_terms,), that player.
        coefficients: float64 (n_terms, n_columns).
        n_players: of the game.
    """

    parents: Integers
    players: Integers
    coefficients: Floats
    n_players: int

    def members(self) -> list[tuple[int, ...]]:
        """Return the players of each term, in increasing order."""
        found: list[tuple[int, ...]] = [()]
        for parent, player in zip(self.parents[1:], self.players[1:], strict=True):
            found.append(tuple(sorted((*found[parent], int(player)))))
        return found

    def sizes(self) -> Integers:
        """Return how many players each term has (n_terms,)."""
        sizes = np.zeros(len(self.parents), dtype=np.int64)
        for term, parent in enumerate(self.parents[1:], start=1):
            sizes[term] = sizes[parent] + 1
        return sizes

    def of_part(self, even: bool, columns: NDArray[np.bool_] | None = None) -> Polynomial:
        """Return the even or the odd part, zero in all but some columns, without terms that it does not need."""
        of_part = (self.sizes() % 2 == 0) == even
        coefficients = np.where(of_part[:, None], self.coefficients, 0.0)
        if columns is not None:
            coefficients = np.where(columns, coefficients, 0.0)
        needed = np.asarray(coefficients.any(axis=1))
        needed[0] = True
        for term in range(len(needed) - 1, 0, -1):
            if needed[term]:
                needed[self.parents[term]] = True
        places = np.cumsum(needed) - 1
        parents = np.append(-1, places[self.parents[needed][1:]])
        return Polynomial(parents, self.players[needed], coefficients[needed], self.n_players)

    def predict(self, coalitions: Coalitions) -> Floats:
        """Return the payoffs (n_coalitions, n_columns) of bool coalitions (n_coalitions, n_players)."""
        payoffs = np.zeros((len(coalitions), self.coefficients.shape[1]))
        _add_payoffs(coalitions, self.parents, self.players, self.coefficients, payoffs)
        return payoffs

    def shapley_values(self) -> Floats:
        """Return the Shapley values (n_players, n_columns): 2/|T| of each odd term, for its players.

        >>> Polynomial(np.array([-1, 0, 1]), np.array([-1, 0, 1]), np.array([[0.0], [3.0], [1.0]]), 2).shapley_values()
        array([[6.],
               [0.]])
        """
        values = np.zeros((self.n_players, self.coefficients.shape[1]))
        for members, coefficients in zip(self.members(), self.coefficients, strict=True):
            if len(members) % 2:
                values[list(members)] += 2 * coefficients / len(members)
        return values

    def index_values(self, coalitions: Integers, shares: Floats) -> Floats:
        """Return an interaction index of coalitions of one size, (n_coalitions, n_columns).

        Args:
            coalitions: int64 (n_coalitions, size), their players in increasing order.
            shares: (n_players + 1,), the index of T in Π_{j∈U} x_j, for T in U, by the size of U.
        """
        places = {tuple(members): place for place, members in enumerate(coalitions.tolist())}
        values = np.zeros((len(coalitions), self.coefficients.shape[1]))
        for members, coefficients in zip(self.members(), self.coefficients, strict=True):
            for part in combinations(members, coalitions.shape[1]):
                values[places[part]] += shares[len(members)] * coefficients
        return values


@dataclass(frozen=True)
class FittedPolynomial:
    """A polynomial fitted to pairs.

    Attributes:
        polynomial: fitted by least squares.
        odd_solved, even_solved: bool (n_columns,), where it leaves nothing but rounding of the part.
    """

    polynomial: Polynomial
    odd_solved: NDArray[np.bool_]
    even_solved: NDArray[np.bool_]


def fit_polynomial(
    signs: Floats, odd: Floats, even: Floats, most_terms: int, even_counts: bool = True
) -> FittedPolynomial | None:
    """Return a polynomial of few terms that fits pairs; None of too many outputs, or fewer terms than players.

    It begins with the players alone. In each round, terms that are a product of one found and one player are compared
    with what is left of the payoffs. Those that stand out most join, if all but one of their parts are there;
    without any such, those that stand out by far.

    Args:
        signs: float64 (n_pairs, n_players) of +1 and -1, distinct pairs.
        odd: (n_pairs, n_columns), half the differences of coalitions' payoffs and their complements'.
        even: likewise, half the sums.
        most_terms: of each part, at most.
        even_counts: whether to go on until the even part is found as well, and not only the odd one.

    >>> from shapkit.coalitions import members_of_masks
    >>> signs = 2.0 * members_of_masks(range(32, 64), 6) - 1
    >>> odd, even = 2 * signs[:, [0]] * signs[:, [1]] * signs[:, [2]], signs[:, [0]] * signs[:, [1]]
    >>> even = even + signs[:, [0]] * signs[:, [2]]
    >>> found = fit_polynomial(signs, odd, even, most_terms=16)
    >>> bool(found.odd_solved[0]), abs(found.polynomial.shapley_values()[:, 0]).round(6).tolist()
    (True, [1.333333, 1.333333, 1.333333, 0.0, 0.0, 0.0])
    """
    n_players = signs.shape[1]
    if most_terms < n_players or odd.shape[1] > MOST_OUTPUTS:
        return None
    with one_thread():
        search = _Search(signs, odd, even, most_terms)
        while not (search.odd.solved.all() and (search.even.solved.all() or not even_counts)):
            if search.slow or not search.adds_terms():
                break
        return search.found()


@dataclass(frozen=True)
class KnownPolynomial:
    """What of a game is a short polynomial on all pairs evaluated, many more than it has terms.

    Attributes:
        polynomial: of all outputs.
        odd, even: bool (n_columns,), the outputs of which it is the odd part, and the even part.
        odd_doubts, even_doubts: float64 (n_columns,), how large the standard error of a player's value is for the
            coalitions that might be different, those of `even_doubts` for other indices.
    """

    polynomial: Polynomial
    odd: NDArray[np.bool_]
    even: NDArray[np.bool_]
    odd_doubts: Floats
    even_doubts: Floats

    def of_part(self, even: bool) -> NDArray[np.bool_]:
        """Return the outputs of which it is that part, bool (n_columns,)."""
        return self.even if even else self.odd

    def doubts(self, even: bool) -> Floats:
        """Return the standard errors for what might be different in that part, (n_columns,)."""
        return self.even_doubts if even else self.odd_doubts


def short_polynomial(signs: Floats, odd: Floats, even: Floats, even_counts: bool) -> FittedPolynomial | None:
    """Return the polynomial of few terms that is the odd or the even part of an output on the first 1,280 pairs.

    Each part of the game has at most two thirds as many terms as these are beyond 16, unless the game is a sum of few
    unanimity games. None if there is none.

    Args: as for `fit_polynomial`.
    """
    signs, odd, even = signs[:MOST_SEARCHED], odd[:MOST_SEARCHED], even[:MOST_SEARCHED]
    most_terms = int((len(signs) - _MORE_PAIRS) / _PAIRS_PER_TERM)
    found = fit_polynomial(signs, odd, even, most_terms, even_counts)
    if found is not None and found.odd_solved.all() and (found.even_solved.all() or not even_counts):
        return found
    summed = _sum_of_unanimity_games(signs, odd, even) if odd.shape[1] <= MOST_OUTPUTS else None
    if summed is not None:
        return summed
    return found if found is not None and (found.odd_solved.any() or found.even_solved.any()) else None


def _sum_of_unanimity_games(signs: Floats, odd: Floats, even: Floats) -> FittedPolynomial | None:
    """The polynomial of a sum of few unanimity games that gives the payoffs of all pairs, if there is one."""
    members = np.concatenate([signs, -signs]) > 0
    games = few_unanimity_games(members, np.concatenate([even + odd, even - odd]))
    if games is None:
        return None
    terms, coefficients = games.products()
    places = {term: place for place, term in enumerate(terms)}
    parents = np.array([-1] + [places[term[:-1]] for term in terms[1:]])
    players = np.array([-1] + [term[-1] for term in terms[1:]])
    solved = np.ones(odd.shape[1], dtype=np.bool_)
    return FittedPolynomial(Polynomial(parents, players, coefficients, signs.shape[1]), solved, solved)


def known_polynomial(signs: Floats, odd: Floats, even: Floats, found: FittedPolynomial) -> KnownPolynomial | None:
    """Return what of a polynomial pairs leave little doubt about; None if there is nothing.

    It must agree with all pairs. Where payoffs differ in their digits, so many do not agree by chance. Those of a
    voting game may, most of which are the same. A part of at most three different sizes of payoffs has to tell, by its
    entropy, 20 bits more than it takes to say which players decide, and what each of their coalitions gets, and no size
    may make up more than three quarters of it. Its standard errors are those of one pair in so many that is different
    by as much as payoffs can be: what may be expected where none was seen to be.

    Args:
        signs, odd, even: as for `fit_polynomial`, all pairs.
        found: the `short_polynomial` of these pairs.

    >>> from shapkit.coalitions import members_of_masks
    >>> signs = 2.0 * members_of_masks(range(64, 128), 7) - 1
    >>> even = (signs[:, [0, 1, 2]] * signs[:, [1, 2, 3]]) @ np.array([[1.0], [0.3], [2.2]])
    >>> odd = signs[:, [6]] * even
    >>> known_polynomial(signs, odd, even, short_polynomial(signs, odd, even, even_counts=True)).odd
    array([ True])
    >>> short_polynomial(signs[:20], odd[:20], even[:20], even_counts=True)
    """
    others = signs[MOST_SEARCHED:] > 0
    odd_solved = found.odd_solved & _agrees(found.polynomial.of_part(even=False), others, odd)
    even_solved = found.even_solved & _agrees(found.polynomial.of_part(even=True), others, even)
    odd_sure, odd_doubts = _certainty(found.polynomial, odd, odd_solved, parity=1)
    even_sure, even_doubts = _certainty(found.polynomial, even, even_solved, parity=0)
    if not (odd_sure.any() or even_sure.any()):
        return None
    return KnownPolynomial(found.polynomial, odd_sure, even_sure, odd_doubts, even_doubts)


def _agrees(polynomial: Polynomial, coalitions: Coalitions, payoffs: Floats) -> NDArray[np.bool_]:
    """Whether a polynomial gives the last payoffs (n_pairs, n_columns), those of the coalitions, (n_columns,)."""
    of_others = payoffs[len(payoffs) - len(coalitions) :]
    errors = np.abs(polynomial.predict(coalitions) - of_others).max(axis=0, initial=0.0)
    return np.asarray(errors <= _SAME * np.abs(payoffs).max(axis=0))


def _certainty(
    polynomial: Polynomial, payoffs: Floats, solved: NDArray[np.bool_], parity: int
) -> tuple[NDArray[np.bool_], Floats]:
    """Which outputs' part is the polynomial, bool (n_columns,), and how large standard errors of what it gives are."""
    n_pairs, n_players = len(payoffs), polynomial.n_players
    of_part = polynomial.sizes() % 2 == parity
    terms = [members for members, counts in zip(polynomial.members(), of_part, strict=True) if counts]
    coefficients = np.abs(polynomial.coefficients[of_part])
    sure, doubts = solved.copy(), np.zeros(len(solved))
    for column in np.flatnonzero(solved):
        sizes = np.abs(payoffs[:, column])
        largest = sizes.max() or 1.0
        counts = np.unique((sizes / largest).round(9), return_counts=True)[1]
        if len(counts) > _FEW_VALUES:
            continue
        matter = coefficients[:, column] > _SOLVED * largest
        n_deciding = len({player for term, some in zip(terms, matter, strict=True) if some for player in term})
        told = -float(counts @ np.log2(counts / n_pairs))
        needed = log2(comb(n_players, n_deciding)) + 2.0 ** min(n_deciding - 1, 100) * log2(_FEW_VALUES)
        sure[column] = told >= needed + _MORE_BITS and counts.max() <= _MOST_ALIKE * n_pairs
        doubts[column] = _PER_EXCEPTION * largest / (n_pairs - len(terms)) if sure[column] else 0.0
    return sure, doubts


class _Search:
    """Terms found so far and what they leave.

    Args: as for `fit_polynomial`.
    """

    def __init__(self, signs: Floats, odd: Floats, even: Floats, most_terms: int) -> None:
        n_pairs, n_players = signs.shape
        self._rows = np.ascontiguousarray(signs.T, dtype=np.float32)
        self._most_terms = most_terms
        self._masks, self._parents, self._players = [0], [-1], [-1]
        # Of each term, a row of +1 and -1, for which half the precision is enough; further rows are room for more
        self._products = np.ones((1, n_pairs), dtype=np.float32)
        self._places = {0: 0}  # of masks among the terms
        self._refused: set[int] = set()  # terms that others make up
        self.odd, self.even = _Part(odd, most_terms), _Part(even, most_terms)
        self.even.joined_by(self._products)
        self._left: list[Floats] = []  # of both parts, (2, n_columns), after each round
        self._join([(1 << player, 0, player) for player in range(n_players)])

    @property
    def slow(self) -> bool:
        """Whether the last rounds have left much of what was left, of all outputs, and go on to take time."""
        if len(self._left) <= _PATIENCE or len(self._masks) < _FEW_TERMS:
            return False
        then, now = self._left[-1 - _PATIENCE], self._left[-1]
        ratios = np.divide(now, then, out=np.ones_like(now), where=then > 0).prod(axis=0)
        unsolved = ~(self.odd.solved & self.even.solved)
        return bool((ratios > _SLOW)[unsolved].all())

    def adds_terms(self) -> bool:
        """Look for terms once; whether any joined."""
        found = self._candidates()
        if not found:
            return False
        least = max(_DISTINCT, _AMONG_LARGEST * max(found.values())[0])
        joining: list[tuple[int, int, int]] = []
        room = [self._most_terms - part.n_terms for part in (self.even, self.odd)]
        for mask, (score, parent, player) in sorted(found.items(), key=lambda item: (-item[1][0], item[0])):
            of_part = mask.bit_count() % 2
            if score < least:
                break
            if room[of_part] > 0:
                room[of_part] -= 1
                joining.append((mask, parent, player))
        return self._join(joining)

    def found(self) -> FittedPolynomial:
        """What has been found."""
        n_terms = len(self._masks)
        coefficients = np.zeros((n_terms, self.odd.residuals.shape[1]))
        odd = np.array([mask.bit_count() % 2 == 1 for mask in self._masks])
        for part, of_part in ((self.odd, odd), (self.even, ~odd)):
            coefficients[of_part] = part.coefficients(self._products[:n_terms][of_part])
        parents, players = np.array(self._parents), np.array(self._players)
        return FittedPolynomial(
            Polynomial(parents, players, coefficients, len(self._rows)),
            self.odd.solved,
            self.even.solved,
        )

    def _candidates(self) -> dict[int, tuple[float, int, int]]:
        """Terms that stand out, by mask: how much, and the term and the player that they are a product of.

        Of those whose parts are missing, none, unless there are no others: then those that are hardly there by chance.
        """
        found: dict[int, tuple[float, int, int]] = {}
        parentless: dict[int, tuple[float, int, int]] = {}
        striking = _BEYOND_CHANCE + np.sqrt(2 * np.log(len(self._masks) * len(self._rows)))
        of_odd = np.array([mask.bit_count() % 2 == 0 for mask in self._masks])  # the products of these are odd
        for part, parents in ((self.odd, np.flatnonzero(of_odd)), (self.even, np.flatnonzero(~of_odd))):
            guides = part.guides().astype(np.float32)
            step = max(1, _BLOCK_FLOATS // self._rows.shape[1])
            for first in range(0, len(parents) if len(guides) else 0, step):
                block = parents[first : first + step]
                products = self._products[block]
                scores = np.abs([(products * guide) @ self._rows.T for guide in guides]).max(axis=0)
                for row, player in np.argwhere(scores > _DISTINCT):
                    parent = int(block[row])
                    mask = self._masks[parent] | 1 << int(player)
                    score = float(scores[row, player])
                    if mask in self._places or mask in self._refused:
                        continue
                    of_kind = found if self._has_parts(mask) else parentless
                    if of_kind is found or score > striking:
                        of_kind[mask] = max(of_kind.get(mask, (0.0, 0, 0)), (score, parent, int(player)))
        return found or parentless

    def _has_parts(self, mask: int) -> bool:
        """Whether all terms of one player fewer are known, but one at most."""
        missing, left = 0, mask
        while left and missing < 2:
            player = left & -left
            left ^= player
            missing += mask ^ player not in self._places
        return missing < 2

    def _join(self, joining: list[tuple[int, int, int]]) -> bool:
        """Take terms (mask, parent, player) into the fit, those that are no sum of others; whether there are any."""
        n_before = len(self._masks)
        for part, parity in ((self.odd, 1), (self.even, 0)):
            new = [term for term in joining if term[0].bit_count() % 2 == parity]
            if not new:
                continue
            products = self._products[[parent for _, parent, _ in new]] * self._rows[[player for *_, player in new]]
            joins = part.joined_by(products)
            self._refused |= {new[number][0] for number in np.setdiff1d(np.arange(len(new)), joins)}
            n_terms = len(self._masks)
            self._products = _with_room(self._products, n_terms + len(joins))
            self._products[n_terms : n_terms + len(joins)] = products[joins]
            for number in joins:
                mask, parent, player = new[number]
                self._places[mask] = len(self._masks)
                self._masks.append(mask)
                self._parents.append(parent)
                self._players.append(player)
        self._left.append(np.stack([self.odd.left, self.even.left]))
        return len(self._masks) > n_before


class _Part:
    """The payoffs of one part of a game and their least-squares fit, by an orthonormal basis of its terms.

    Args:
        payoffs: (n_pairs, n_columns).
        most_terms: of the basis, at most.
    """

    def __init__(self, payoffs: Floats, most_terms: int) -> None:
        self.residuals = payoffs.copy()
        self.n_terms = 0
        self._payoffs = payoffs
        self._basis = np.empty((0, len(payoffs)))  # one a row; rows beyond the terms are room for more
        self._triangle = np.zeros((most_terms, most_terms))  # products of terms are basis.T @ triangle
        self._largest = np.abs(payoffs).max(axis=0)

    @property
    def solved(self) -> NDArray[np.bool_]:
        """Whether what is left is rounding, (n_columns,)."""
        return np.asarray(np.abs(self.residuals).max(axis=0) <= _SOLVED * self._largest)

    @property
    def left(self) -> Floats:
        """The squares that are left, for each degree of freedom that is, (n_columns,); 0 if they are rounding."""
        squares = (self.residuals**2).sum(axis=0) / (len(self._payoffs) - self.n_terms)
        return np.where(self.solved, 0.0, squares)

    def guides(self) -> Floats:
        """Return what is left in the unit of a product's standard error, (n_guides, n_pairs), of unsolved outputs."""
        norms = np.sqrt((self.residuals**2).sum(axis=0))
        columns = np.flatnonzero(~self.solved)
        if len(columns) > _MOST_GUIDING:  # those of which the largest share is left
            shares = norms[columns] / self._largest[columns]
            columns = columns[np.argsort(-shares, kind="stable")[:_MOST_GUIDING]]
        return np.ascontiguousarray((self.residuals[:, columns] / norms[columns]).T)

    def joined_by(self, products: NDArray[np.float32]) -> Integers:
        """Add terms (n_new, n_pairs) to the fit; return which, those that are no sum of others, in their order."""
        n_terms = self.n_terms
        basis = self._basis[:n_terms]
        new, shares = products.astype(np.float64), np.zeros((n_terms, len(products)))
        for _ in range(2):  # twice is enough (Giraud and others 2005)
            step = basis @ new.T
            new -= step.T @ basis
            shares += step
        directions, triangle, order = qr(new.T, mode="economic", pivoting=True)
        n_kept = int((np.abs(np.diag(triangle)) > _DEPENDENT * np.sqrt(products.shape[1])).sum())
        directions, kept = directions[:, :n_kept], slice(n_terms, n_terms + n_kept)
        self._basis = _with_room(self._basis, n_terms + n_kept)
        self._basis[kept] = directions.T
        self._triangle[:n_terms, kept] = shares[:, order[:n_kept]]
        self._triangle[kept, kept] = triangle[:n_kept, :n_kept]
        self.n_terms += n_kept
        for _ in range(2):
            self.residuals = self.residuals - directions @ (directions.T @ self.residuals)
        return np.asarray(order[:n_kept], dtype=np.int64)

    def coefficients(self, products: NDArray[np.float32]) -> Floats:
        """Return the coefficients (n_terms, n_columns) of the terms (n_terms, n_pairs), in the order of joining."""
        basis, triangle = self._basis[: self.n_terms], self._triangle[: self.n_terms, : self.n_terms]
        found = np.zeros((self.n_terms, self._payoffs.shape[1]))
        for _ in range(2):
            left = self._payoffs.copy()
            for first in range(0, self.n_terms if found.any() else 0, _BLOCK_TERMS):
                block = slice(first, first + _BLOCK_TERMS)
                left -= products[block].T.astype(np.float64) @ found[block]
            found += solve_triangular(triangle, basis @ left)
        return found


def _with_room(rows: NDArray[Any], n_rows: int) -> NDArray[Any]:
    """The same rows, and more of them that hold anything, where there are fewer than `n_rows`."""
    if n_rows <= len(rows):
        return rows
    more = np.empty((max(n_rows, 2 * len(rows)) - len(rows), *rows.shape[1:]), dtype=rows.dtype)
    return np.concatenate([rows, more])


@compiled
def _add_payoffs(
    coalitions: Coalitions, parents: Integers, players: Integers, coefficients: Floats, payoffs: Floats
) -> None:
    """Add what each term pays to the payoffs (n_coalitions, n_columns)."""
    n_terms, n_columns = coefficients.shape
    products = np.ones(n_terms)
    for row in range(coalitions.shape[0]):
        for column in range(n_columns):
            payoffs[row, column] += coefficients[0, column]
        for term in range(1, n_terms):
            product = products[parents[term]]
            if not coalitions[row, players[term]]:
                product = -product
            products[term] = product
            for column in range(n_columns):
                payoffs[row, column] += coefficients[term, column] * product
