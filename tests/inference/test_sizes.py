"""Sizes of batches: few, close enough, and what padding to them costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.inference.sizes import padding_seconds, size_for, sizes_up_to


def test_the_sizes_are_these():
    assert sizes_up_to(128) == (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    assert sizes_up_to(100) == (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 100)
    assert [sizes_up_to(largest) for largest in (1, 2, 3, 8)] == [(1,), (1, 2), (1, 2, 3), (1, 2, 4, 8)]


@given(st.integers(1, 5000), st.data())
def test_a_batch_is_filled_up_by_less_than_half_of_itself_or_by_three(largest: int, data: st.DataObject):
    sizes = sizes_up_to(largest)
    rows = data.draw(st.integers(1, largest))
    size = size_for(rows, sizes)
    assert rows <= size <= largest and not any(rows <= other < size for other in sizes)
    assert size - rows <= max(3, rows / 2)
    assert len(sizes) <= 4 + 2 * largest.bit_length()


def test_what_no_size_has_room_for_is_refused():
    with pytest.raises(ValueError, match="9 decisions"):
        size_for(9, sizes_up_to(8))
    with pytest.raises(ValueError, match="0 decisions"):
        sizes_up_to(0)


def test_padding_costs_what_the_rows_would_have_cost_less():
    assert padding_seconds({1: 0.010, 2: 0.010, 4: 0.014}) == pytest.approx({1: 0, 2: 0, 3: 0.002, 4: 0})
    assert set(padding_seconds({8: 0.010}).values()) == {0.0}
