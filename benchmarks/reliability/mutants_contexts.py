"""A pytest plugin that tells coverage which test is running, by its node without the parameters.

Coverage's own ``dynamic_context = test_function`` loses the module of what hypothesis wraps.
"""

from __future__ import annotations

from collections.abc import Iterator

import coverage
import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    running = coverage.Coverage.current()
    if running is not None:
        running.switch_context(item.nodeid.split("[")[0])
    return (yield)
