"""Bitmasks, membership matrices and enumeration, against Python integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapkit.coalitions import enumerate_coalitions, masks_of_members, members_of_masks


@given(st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, 2**n - 1), max_size=9))))
def test_masks_and_members_are_inverse(case):
    n_players, masks = case
    members = members_of_masks(np.array(masks, dtype=np.uint64), n_players)
    assert members.tolist() == [[bool(mask >> player & 1) for player in range(n_players)] for mask in masks]
    assert masks_of_members(members).tolist() == masks


@pytest.mark.parametrize("n_rows", [1, 3, 8, 32, 100])
def test_enumeration_in_blocks_of_any_size(n_rows):
    blocks = list(enumerate_coalitions(5, n_rows))
    assert [first for first, _ in blocks] == list(range(0, 32, n_rows))
    assert masks_of_members(np.concatenate([block for _, block in blocks])).tolist() == list(range(32))


def test_enumeration_of_a_range_far_out():
    start = 2**40 + 5
    ((first, block),) = enumerate_coalitions(50, 10, start, start + 3)
    assert first == start and masks_of_members(block).tolist() == [start, start + 1, start + 2]


def test_no_players_have_one_coalition():
    assert [block.shape for _, block in enumerate_coalitions(0, 4)] == [(1, 0)]


def test_columns_of_any_memory_layout():
    members = np.asfortranarray(members_of_masks(np.arange(8), 3))
    assert masks_of_members(members[::2]).tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: members_of_masks([8], 3),
            r"masks must lie in \[0, 2\*\*3\) for n_players=3, got values from 8 to 8",
        ),
        (lambda: members_of_masks([-1], 3), "got values from -1 to -1"),
        (lambda: members_of_masks([[1]], 3), r"masks must be a list of integers, got shape \(1, 1\)"),
        (lambda: members_of_masks([0.5], 3), "masks must be a list of integers, .* dtype float64"),
        (lambda: members_of_masks([1], 65), "n_players must be between 0 and 64 for bitmasks, got 65"),
        (
            lambda: masks_of_members(np.eye(3)),
            r"must be a boolean matrix .* got shape \(3, 3\) and dtype float64",
        ),
        (lambda: masks_of_members(np.array([True])), r"must be a boolean matrix .* got shape \(1,\)"),
        (lambda: masks_of_members(np.zeros((1, 65), bool)), "between 0 and 64"),
        (
            lambda: enumerate_coalitions(64, 8),
            r"cannot enumerate coalitions \[0, 18446744073709551616\) of 64 players",
        ),
        (lambda: enumerate_coalitions(3, 8, 5, 9), r"cannot enumerate coalitions \[5, 9\) of 3 players"),
        (lambda: enumerate_coalitions(3, 0), "n_rows must be at least 1, got 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("n_players", [0, 1, 2, 7])
def test_gray_code_changes_one_player_at_a_time(n_players):
    rows = np.concatenate([block for _, block in enumerate_coalitions(n_players, 5, gray=True)])
    assert len(np.unique(rows, axis=0)) == len(rows) == 2**n_players
    assert ((rows[1:] != rows[:-1]).sum(axis=1) == 1).all() and not rows[:1].any()
    numbers = np.arange(2**n_players)
    np.testing.assert_array_equal(rows, members_of_masks(numbers ^ numbers >> 1, n_players))
