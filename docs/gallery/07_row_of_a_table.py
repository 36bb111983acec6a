"""
# Why this row?

A gradient-boosted classifier of scikit-learn's wine data, one bottle, in log-odds.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_wine
from sklearn.ensemble import GradientBoostingClassifier

import shapkit

wine = load_wine(as_frame=True)
model = GradientBoostingClassifier(random_state=0).fit(wine.data, wine.target)
row = wine.data.iloc[[60]]
game = shapkit.model_game(model.predict_proba, row, wine.data.sample(40, random_state=0), output=1)
phi = shapkit.estimate(game, budget=800)
phi.plot()
plt.title("What makes bottle 60 a wine of class 1 for the model", fontsize=10)
plt.show()
