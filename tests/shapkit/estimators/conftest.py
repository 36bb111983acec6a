"""What several test files of estimators use."""

from collections.abc import Iterator

import pytest

from shapkit.estimators.runs import anytime, known_payoffs


@pytest.fixture(scope="module")
def too_many_to_enumerate() -> Iterator[None]:
    """Games of a few players are run as those of many are: nothing is remembered, and no run comes to an end.

    For tests of sampling itself, whose slow twins need few players and whose statistics need many samples.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_payoffs, "_MOST_PLAYERS", -1)
        patch.setattr(anytime, "MAX_EXACT_PLAYERS", -1)
        yield
