"""
# What a model as a whole goes by

SAGE's values: how much of the model's performance each feature brings, on rows that it was not trained on.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import shapkit

data = load_breast_cancer()
columns = [0, 1, 4, 6, 7, 10, 20, 27]
x, y = data.data[:, columns], data.target
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x[:400], y[:400])
game = shapkit.loss_game(
    model.predict_proba,
    x[400:460],
    y[400:460],
    x[:30],
    loss="cross_entropy",
    names=[str(data.feature_names[c]) for c in columns],
)
shapkit.exact(game).plot()
plt.title("Cross-entropy that each feature saves", fontsize=10)
plt.show()
