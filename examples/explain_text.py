"""Which words a text classifier looks at: reviews made of a few phrases, by a bag of words and of word pairs.

python examples/explain_text.py OUT.html      (a few seconds)
"""

import itertools
import sys
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import shapkit

THINGS = ("the film", "the plot", "the cast", "the music", "it all")
WORDS = {"good": 1, "wonderful": 1, "moving": 1, "bad": -1, "dull": -1, "tiring": -1}
MANNERS = {"was": 1, "was very": 1, "was not": -1, "was never": -1}


def main(out: str | None = None) -> shapkit.Attribution:
    """Values of words, and of pairs of words, for the log-odds of a good review."""
    reviews, liked = [], []
    for thing, (manner, sign), (word, value) in itertools.product(THINGS, MANNERS.items(), WORDS.items()):
        reviews.append(f"{thing} {manner} {word}")
        liked.append(sign * value > 0)
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=30.0)).fit(reviews, liked)

    def log_odds(texts: list[str]) -> np.ndarray:
        return np.asarray(model.decision_function(texts))

    text = "I thought the plot was not good but the music was wonderful"
    words = shapkit.exact(shapkit.text_game(log_odds, text, absent="…"))
    pairs = shapkit.estimate(shapkit.text_game(log_odds, text, absent="…"), 400, index="SII", order=2)
    print(words)
    print(f"not × good: {pairs['not', 'good']:.2f} ± {pairs.standard_error('not', 'good'):.2f}")
    if out is not None:
        Path(out).write_text(shapkit.text_html(words), encoding="utf-8")
    return pairs


if __name__ == "__main__":
    main(*sys.argv[1:2])
