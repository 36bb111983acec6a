"""The game of a model for one text: what its words or tokens do to the prediction, the others left out or masked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shapkit.coalitions import Coalitions
from shapkit.games.batches import Payoffs
from shapkit.games.cache import CoalitionCache
from shapkit.games.game import Game
from shapkit.games.predictions import Predictor


def text_game(
    predict: Callable[[list[str]], Any],
    text: str | Sequence[str],
    absent: str | None = None,
    tokenizer: Callable[[str], Sequence[str]] | None = None,
    join: Callable[[list[str]], str] = "".join,
    batch_size: int | None = None,
    cache: CoalitionCache | bool | None = None,
    executor: Executor | None = None,
) -> Game:
    """Return the game whose players are the words of `text` and whose payoffs are predictions of texts without others.

    Args:
        predict: takes a list of texts and returns real numbers (n_texts, *output_shape), such as a pipeline's scores.
        text: a text, or its tokens.
        absent: what stands in the place of absent words, such as "[MASK]"; they are left out if None.
        tokenizer: splits the text, such as `tokenizer.tokenize` of transformers; by default at white space, which
            stays with the word before it.
        join: puts tokens together again, such as `tokenizer.convert_tokens_to_string`.
        batch_size: how many texts at once; other arguments are as for `Game`.

    Returns:
        a Game whose players are named by their words; "good (2)" is the second "good".

    Raises:
        ValueError: there are no words, or, in an evaluation, a prediction is not as described.

    >>> game = text_game(lambda texts: [text.count("o") for text in texts], "so good, so far")
    >>> game.names
    ('so', 'good,', 'so (2)', 'far')
    >>> game(np.array([[True, True, False, False]]))
    array([3.])
    """
    if not callable(predict):
        raise ValueError(f"predict must be a function of a list of texts, got {type(predict).__name__}")
    tokens = list((tokenizer or _words)(text)) if isinstance(text, str) else list(text)
    if not tokens or not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"text must be a text with words in it, or a list of tokens, got {text!r:.80}")
    value = _OfTexts(predict, tuple(tokens), absent, join)
    return Game(value, len(tokens), token_names(tokens), batch_size, cache, executor)


def token_names(tokens: Sequence[str]) -> tuple[str, ...]:
    """Return names of tokens that are all different: those that come again are numbered.

    >>> token_names(["a ", "b ", "a"])
    ('a', 'b', 'a (2)')
    """
    seen: Counter[str] = Counter()
    names = []
    for number, token in enumerate(tokens):
        word = token.strip() or f"token {number}"
        seen[word] += 1
        names.append(word if seen[word] == 1 else f"{word} ({seen[word]})")
    return tuple(names) if len(set(names)) == len(names) else tuple(f"{number}: {t}" for number, t in enumerate(tokens))


@dataclass(frozen=True, eq=False)
class _OfTexts:
    """The predictions, as a value function that other processes can be sent."""

    predict: Callable[[list[str]], Any]
    tokens: tuple[str, ...]
    absent: str | None
    join: Callable[[list[str]], str]

    def __call__(self, coalitions: Coalitions) -> Payoffs:
        texts = [self.join(self._present(members)) for members in coalitions]
        return Predictor(self.predict, of="text").checked(texts, len(texts), lambda: texts[:1])

    def _present(self, members: NDArray[np.bool_]) -> list[str]:
        if self.absent is None:
            return [token for token, there in zip(self.tokens, members, strict=True) if there]
        gaps = [self.absent + token[len(token.rstrip()) :] for token in self.tokens]
        return [token if there else gap for token, gap, there in zip(self.tokens, gaps, members, strict=True)]


def _words(text: str) -> list[str]:
    """Words with the white space behind them; that before the first is the first's."""
    found = re.findall(r"\S+\s*", text)
    return found and [text[: len(text) - len(text.lstrip())] + found[0], *found[1:]]
