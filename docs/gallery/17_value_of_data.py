"""
# Which training points are wrong?

A tenth of the labels are flipped. Points of low value, exactly and in closed form for nearest neighbours, are where
to look.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale

import shapkit

data = load_breast_cancer()
rng = np.random.default_rng(0)
x, y = scale(data.data), data.target.copy()
wrong = rng.choice(400, 40, replace=False)
y[wrong] = 1 - y[wrong]
values = shapkit.knn_values(x[:400], y[:400], x[400:], data.target[400:], n_neighbours=5).values

looked_at = np.argsort(values)
found = np.isin(looked_at, wrong).cumsum() / len(wrong)
plt.figure(figsize=(7, 3.2), layout="constrained")
plt.plot(np.arange(1, 401) / 4, 100 * found, color="#0072b2", label="lowest value first")
plt.plot([0, 100], [0, 100], color="#999999", linestyle="--", label="in any order")
plt.xlabel("training points looked at (%)")
plt.ylabel("wrong labels found (%)")
plt.legend(frameon=False)
plt.title("Low values are where the wrong labels are")
plt.show()
