"""One thread for small matrices, and the number of before afterwards, whoever else asks."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from threadpoolctl import ThreadpoolController

from shapkit.estimators.threads import one_thread, threads_for


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in ThreadpoolController().info() if library["user_api"] == "blas"]


@pytest.fixture(autouse=True)
def two_threads():
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        yield


def test_contexts_within_each_other_limit_once() -> None:
    before = blas_threads()
    with one_thread():
        with threads_for(10):
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {1}
    assert blas_threads() == before


def test_who_leaves_first_does_not_end_the_limit_of_others_and_the_last_puts_it_back() -> None:
    """As of two threads: the second begins before the first has ended, and ends after it."""
    before = blas_threads()
    first, second = ExitStack(), ExitStack()
    first.enter_context(one_thread())
    second.enter_context(one_thread())
    first.close()
    assert set(blas_threads()) == {1}
    second.close()
    assert blas_threads() == before


def test_an_error_puts_it_back() -> None:
    before = blas_threads()
    with pytest.raises(ValueError, match="within"), one_thread():
        raise ValueError("within")
    assert blas_threads() == before


def test_large_matrices_have_all_threads() -> None:
    before = blas_threads()
    with threads_for(100_000):
        assert blas_threads() == before
