"""
# Stop when it is good enough

A rule says when to stop; the result says which rule it was, and can go on from there.
"""

import matplotlib.pyplot as plt

import shapkit

game = shapkit.weighted_voting(range(1, 31), quota=230)
phi = shapkit.estimate(game, method="antithetic", stop=shapkit.StandardError(0.004) | shapkit.Budget(100_000))
print(phi.stopped_by, phi.n_evaluations)

steps, errors = [phi.n_evaluations], [phi.standard_errors.max()]
for _ in range(5):
    phi = phi.extend(2 * phi.n_evaluations)
    steps.append(phi.n_evaluations)
    errors.append(phi.standard_errors.max())

plt.figure(figsize=(7, 3.2), layout="constrained")
plt.loglog(steps, errors, "o-", color="#0072b2")
plt.axhline(0.004, color="#999999", linestyle="--")
plt.xlabel("evaluations")
plt.ylabel("largest standard error")
plt.title("Extended five times, each time from where it stopped")
plt.show()
