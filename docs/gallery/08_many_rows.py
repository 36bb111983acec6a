"""
# Many rows at once

`explain_rows` explains one row after the other, in workers if you like, and gives one result with tables and shap's
plots.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor

import shapkit

diabetes = load_diabetes(as_frame=True)
model = RandomForestRegressor(60, random_state=0).fit(diabetes.data, diabetes.target)
rows = diabetes.data.iloc[:40]
background = shapkit.summarize(diabetes.data, 8)
found = shapkit.explain_rows(model.predict, rows, background, budget=60, method="antithetic")
values, errors = found.mean_absolute()

order = values.argsort()
plt.figure(figsize=(7, 3.4), layout="constrained")
plt.barh([found.names[i] for i in order], values[order], xerr=errors[order], color="#0072b2")
plt.xlabel("mean absolute Shapley value, with standard error")
plt.title("What the forest goes by, over forty patients")
plt.show()
