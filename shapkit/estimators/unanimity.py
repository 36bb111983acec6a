"""Games that are sums of few unanimity games, found from some of their coalitions.

Every game is a sum Σ_S d_S u_S, where the unanimity game u_S pays 1 to the coalitions that hold all of S, and d_S is
the Harsanyi dividend of S: its Möbius transform. A sum of thirty unanimity games of up to five players has hundreds of
terms as a polynomial, and thirty as such a sum: fewer coalitions tell them.

The search is orthogonal least squares (Chen, Billings and Luo 1989): each term in turn is the one that leaves the
least, all others so far fitted anew. The first ones are chosen while most of the game is not understood yet. So the
half of them that matters least is dropped again, and others are looked for.

That Möbius transforms of few terms take few samples is by Kang, Erginbas, Butler, Pedarsani and Ramchandran (2024), who
choose the coalitions for it; here they are those that were evaluated anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from shapkit.coalitions import Coalitions
from shapkit.estimators.threads import one_thread

Floats = NDArray[np.float64]

Games = NDArray[np.float32]
"""What unanimity games pay to coalitions, 0 and 1, (n_games, n_coalitions)."""

_MOST_SEARCHED = 512  # coalitions; the others are compared with what is found
_MOST_FLOATS, _LARGEST = 4_000_000, 5  # of what candidates pay to coalitions; and players of each
_MOST_EACH = 100  # candidates for each coalition: more would take longer than a model of so few coalitions
_PER_TERM_TRIED, _PER_TERM = 5, 7  # coalitions: some of those tried on the way turn out not to be there
_MOST_TRIED = 64  # more would take longer than what is known by them is worth
_LEAST_SEEN = 10  # coalitions that hold a carrier, or it may be the game of another one that was seen
_LOOK, _SLOW = 16, 0.65  # a search ends where so many terms leave more than this of what was left
_ROUNDS, _NO_BETTER = 4, 0.95  # and where the terms after half of them were dropped do
_DEPENDENT = 1e-4  # of its length, at most, is left of a term that the others make up
_SOLVED = 1e-11  # relative: what is left of payoffs is rounding
_NONE = 1e-9  # of the largest dividend: one that is not there
_MOST_GUIDING = 8  # outputs that the search looks at


@dataclass(frozen=True)
class UnanimityGames:
    """A sum of unanimity games.

    Attributes:
        carriers: the players of each, in increasing order; those of a constant are none.
        dividends: float64 (n_carriers, n_columns).
    """

    carriers: list[tuple[int, ...]]
    dividends: Floats

    def products(self) -> tuple[list[tuple[int, ...]], Floats]:
        """Return the same as a polynomial of signs, +1 for members and -1 for the others: terms and coefficients.

        The terms are in the order of their sizes, the empty one first, and hold all parts of each other. Coefficients
        are float64 (n_terms, n_columns).

        >>> UnanimityGames([(0, 2)], np.array([[4.0]])).products()
        ([(), (0,), (2,), (0, 2)], array([[1.],
               [1.],
               [1.],
               [1.]]))
        """
        nothing: Floats = np.zeros(self.dividends.shape[1])
        found: dict[tuple[int, ...], Floats] = {(): nothing}
        for carrier, dividends in zip(self.carriers, self.dividends, strict=True):
            share = dividends / 2 ** len(carrier)  # the carrier's game is the product of (1 + x_j) / 2
            for size in range(len(carrier) + 1):
                for part in combinations(carrier, size):
                    found[part] = found.get(part, nothing) + share
        terms = sorted(found, key=lambda term: (len(term), term))
        return terms, np.array([found[term] for term in terms])


def few_unanimity_games(members: Coalitions, payoffs: Floats) -> UnanimityGames | None:
    """Return the sum of few unanimity games that leaves nothing but rounding of payoffs; None if none was found.

    They are at most one for seven coalitions, and 64. A carrier has at most five players, or fewer where such are
    more than a hundred for each coalition, or would take long to try. At least ten of the coalitions hold each, and on
    them no game of similar carriers is a sum of these: one that is larger than those looked for, say.

    Args:
        members: bool (n_coalitions, n_players), distinct coalitions.
        payoffs: (n_coalitions, n_columns).

    >>> from shapkit.coalitions import members_of_masks
    >>> members = members_of_masks(range(0, 256, 3), 8)
    >>> payoffs = 2.0 * members[:, [1]] - 3.0 * (members[:, [0]] & members[:, [4]] & members[:, [7]])
    >>> found = few_unanimity_games(members, payoffs)
    >>> dict(zip(found.carriers, found.dividends[:, 0].round(9).tolist()))
    {(1,): 2.0, (0, 4, 7): -3.0}
    """
    searched = np.linspace(0, len(members) - 1, min(len(members), _MOST_SEARCHED)).astype(np.int64)
    most_terms, most_tried = len(searched) // _PER_TERM, min(len(searched) // _PER_TERM_TRIED, _MOST_TRIED)
    # With so many players that two would be too many, nothing is found that is not additive
    too_many = comb(members.shape[1], 2) > _most_candidates(len(searched))
    if most_terms < 1 or too_many or not np.ptp(payoffs, axis=0).any():
        return None
    candidates = _Candidates(members[searched])
    with one_thread():
        terms = _solving_terms(candidates.games, payoffs[searched], most_tried)
    if terms is None:
        return None
    carriers = [candidates.carrier(term) for term in sorted(terms)]  # by size
    seen = _games_of(carriers, members)
    sizes = np.abs(_dividends(seen, payoffs)).max(axis=1)
    there = np.flatnonzero(sizes > _NONE * sizes.max())
    carriers, seen = [carriers[place] for place in there], seen[there]
    if len(carriers) > most_terms or (seen.sum(axis=1) < _LEAST_SEEN).any():
        return None
    dividends = _dividends(seen, payoffs)
    left = np.abs(payoffs - seen.T @ dividends).max(axis=0)
    solved = (left <= 10 * _SOLVED * np.abs(payoffs).max(axis=0)).all()
    return UnanimityGames(carriers, dividends) if solved and _told_apart(carriers, members[searched]) else None


def _dividends(games: Floats, payoffs: Floats) -> Floats:
    """Those (n_games, n_columns) that leave the least squares of payoffs (n_coalitions, n_columns)."""
    return np.asarray(np.linalg.lstsq(games.T, payoffs, rcond=None)[0])


def _most_candidates(n_coalitions: int) -> int:
    return min(_MOST_EACH * n_coalitions, _MOST_FLOATS // n_coalitions)


class _Candidates:
    """Carriers in the order of their sizes, the empty one first, and their games.

    Args:
        members: bool (n_coalitions, n_players).

    Attributes:
        games: those of the carriers, (n_carriers, n_coalitions).
    """

    def __init__(self, members: Coalitions) -> None:
        n_players = members.shape[1]
        columns = np.ascontiguousarray(members.T, dtype=np.float32)
        # Of each carrier, its last player, and the place of the carrier of the others
        last, others = [np.array([-1])], [np.array([0])]
        games = [np.ones((1, len(members)), dtype=np.float32)]
        first, n_carriers = 0, 1
        for size in range(1, min(_LARGEST, n_players) + 1):
            if n_carriers + comb(n_players, size) > _most_candidates(len(members)):
                break
            n_larger = n_players - 1 - last[-1]  # each with one more player, after its last
            chosen = np.repeat(np.arange(len(n_larger)), n_larger)
            rank = np.arange(len(chosen)) - (np.cumsum(n_larger) - n_larger)[chosen]
            players = last[-1][chosen] + 1 + rank
            games.append(games[-1][chosen] * columns[players])
            last.append(players)
            others.append(first + chosen)
            first, n_carriers = n_carriers, n_carriers + len(chosen)
        self._last, self._others, self.games = map(np.concatenate, (last, others, games))

    def carrier(self, place: int) -> tuple[int, ...]:
        """The players of a carrier, in increasing order."""
        players: list[int] = []
        while place:
            players.append(int(self._last[place]))
            place = int(self._others[place])
        return tuple(reversed(players))


def _told_apart(carriers: list[tuple[int, ...]], members: Coalitions) -> bool:
    """Whether on these coalitions no game of similar carriers is a sum of the carriers' games.

    If one were, it might be what is there in their place. Similar carriers hold a player more or less than one of them,
    or all players of two.
    """
    known = {frozenset(carrier) for carrier in carriers}
    everyone = range(members.shape[1])
    similar = {carrier ^ {player} for carrier in known for player in everyone}
    similar |= {first | second for first, second in combinations(known, 2)}
    games = _games_of(carriers, members)
    rivals = _games_of([tuple(carrier) for carrier in similar - known], members)
    basis = np.linalg.qr(games.T)[0]
    squares = rivals.sum(axis=1)
    left = squares - ((rivals @ basis) ** 2).sum(axis=1)
    return bool((left[squares > 0] > _DEPENDENT * squares[squares > 0]).all())


def _games_of(carriers: list[tuple[int, ...]], members: Coalitions) -> Floats:
    """What carriers' unanimity games pay to coalitions, (n_carriers, n_coalitions)."""
    return np.array([members[:, list(carrier)].all(axis=1) for carrier in carriers], dtype=np.float64)


def _solving_terms(games: Games, payoffs: Floats, most: int) -> list[int] | None:
    """Numbers of games of which a sum leaves nothing of the payoffs, `most` at most; None if none were found."""
    kept: list[int] = []
    before = np.inf
    for _ in range(1 + _ROUNDS):
        search = _Search(games, payoffs, kept)
        if search.solves(most):
            return search.terms
        if search.lengths[-1] > _NO_BETTER * before or (not kept and len(search.terms) < most):
            return None
        before = search.lengths[-1]
        mattering = _squares_without(games[search.terms], payoffs).argsort(kind="stable")[-(most // 2) :]
        kept = [search.terms[place] for place in sorted(mattering)]
    return None


def _squares_without(games: Games, payoffs: Floats) -> Floats:
    """What leaving out each of the games adds to the squares that are left, as a share of the payoffs', (n_games,)."""
    whole = games.astype(np.float64)
    inverse = np.linalg.pinv(whole @ whole.T)
    shares = inverse @ (whole @ payoffs) / np.maximum(np.linalg.norm(payoffs, axis=0), np.finfo(float).tiny)
    return np.asarray((shares**2).sum(axis=1) / np.diag(inverse))


class _Search:
    """What is left of payoffs, and of candidates, beside the terms chosen so far.

    Args:
        games: those of the candidates, the first one constant.
        payoffs: (n_coalitions, n_columns).
        terms: numbers of the games to begin with.

    Attributes:
        terms: numbers of those chosen.
        lengths: what each left of the payoffs, in their own unit.
    """

    def __init__(self, games: Games, payoffs: Floats, terms: list[int]) -> None:
        norms = np.linalg.norm(payoffs, axis=0)
        guiding = np.flatnonzero(norms > 0)[:_MOST_GUIDING]
        self.terms: list[int] = []
        self.lengths: list[float] = []
        self._games = games
        self._residuals = payoffs[:, guiding] / norms[guiding]
        self._squares = games.sum(axis=1, dtype=np.float64)
        self._left = self._squares.copy()  # of each candidate's square, beside the terms
        self._basis = np.empty((0, len(payoffs)))
        for term in terms or [0]:
            self._join(term)

    def solves(self, most: int) -> bool:
        """Add terms until they leave nothing, or they are so many, or many of them leave much; whether nothing is."""
        n_before = len(self.terms)
        while self.lengths[-1] > _SOLVED:
            look = self.lengths[n_before - 1 :][-1 - _LOOK :]
            if len(self.terms) >= most or (len(look) > _LOOK and look[-1] > _SLOW * look[0]):
                return False
            gains = self._gains()
            term = int(gains.argmax())
            if gains[term] <= 0:
                return False
            self._join(term)
        return True

    def _join(self, term: int) -> None:
        """Take a candidate into the fit, unless the terms make it up."""
        direction = self._games[term].astype(np.float64)
        whole = float(np.linalg.norm(direction))
        for _ in range(2):  # twice is enough (Giraud and others 2005)
            direction -= self._basis.T @ (self._basis @ direction)
        length = float(np.linalg.norm(direction))
        self._left[term] = 0.0
        if length <= _DEPENDENT * whole:
            return
        direction /= length
        self._basis = np.vstack([self._basis, direction])
        for _ in range(2):
            self._residuals -= np.outer(direction, direction @ self._residuals)
        self._left -= (self._games @ direction.astype(np.float32)) ** 2
        self._left[term] = 0.0
        self.terms.append(term)
        self.lengths.append(float(np.linalg.norm(self._residuals)))

    def _gains(self) -> Floats:
        """By how much each candidate would lessen what is left, as a share; 0 of those that the terms make up."""
        lengths = np.linalg.norm(self._residuals, axis=0)
        guides = (self._residuals / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
        squares = ((self._games @ guides) ** 2).sum(axis=1)
        free = self._left > _DEPENDENT * self._squares
        return np.where(free, squares / np.where(free, self._left, 1.0), 0.0)
