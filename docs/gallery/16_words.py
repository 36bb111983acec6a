"""
# Words of a sentence

A bag of words with a twist: "not" turns what comes behind it. The interaction of "not" and "good" says so.
"""

import matplotlib.pyplot as plt

import shapkit

scores = {"good": 1.0, "plot": 0.1, "bad": -1.0}


def sentiment(texts):
    found = []
    for text in texts:
        total, sign = 0.0, 1.0
        for word in text.split():
            total += sign * scores.get(word, 0.0)
            sign = -1.0 if word == "not" else 1.0
        found.append(total)
    return found


game = shapkit.text_game(sentiment, "the plot was not good")
pairs = shapkit.exact(game, "k-SII", order=2)
pairs.plot(kind="heatmap")
plt.title('"not" and "good" together are bad', fontsize=10)
plt.show()
