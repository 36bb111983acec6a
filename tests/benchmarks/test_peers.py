"""Other libraries get the same numbers where both define the same: the comparisons of the published table, again."""

import json

import pytest

from benchmarks.peers import equality

BOUNDS = {"captum": 1e-5}  # whose values come in float32
SAMPLED = 4.0  # standard errors; of 11 values, one in 1,400 runs is farther off


@pytest.mark.parametrize(
    "comparison", equality.COMPARISONS, ids=lambda comparison: f"{comparison.peer} {comparison.what}"
)
def test_the_same_numbers(comparison):
    if equality.version(comparison.peer) is None:
        pytest.skip(f"{comparison.peer} is not installed")
    bound = SAMPLED if comparison.sampled else BOUNDS.get(comparison.peer, 1e-7)
    assert equality.largest_difference(comparison) < bound


def test_every_comparison_is_published():
    published = json.loads(equality.RESULTS.read_text())["comparisons"]
    assert [(row["peer"], row["what"]) for row in published] == [(c.peer, c.what) for c in equality.COMPARISONS]
