"""What a refused call says, for the tests of data sets."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def complaint(action: Callable[[], object]) -> str:
    """The message of the ValueError that a call raises, in one line."""
    with pytest.raises(ValueError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message
