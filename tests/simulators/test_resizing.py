"""Images of another size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.simulators.resizing import resized, shares

sides = st.integers(1, 40)


@given(sides, sides)
def test_the_shares_of_a_new_pixel_sum_to_one_and_no_old_pixel_counts_more_than_another(old: int, new: int):
    found = shares(old, new)
    assert found.shape == (new, old) and found.sum(axis=1) == pytest.approx(np.ones(new), abs=1e-5)
    assert found.sum(axis=0) == pytest.approx(np.full(old, new / old), rel=1e-4)


@given(sides, sides, sides, sides, st.integers(0, 255))
def test_one_colour_stays_one_colour(height: int, width: int, high: int, wide: int, colour: int):
    image = np.full((height, width, 3), colour, np.uint8)
    assert np.array_equal(resized(image, (high, wide)), np.full((high, wide, 3), colour, np.uint8))


def test_whole_multiples_are_means_of_blocks_and_rows_are_rows():
    image = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    blocks = image.reshape(4, 3, 4, 5, 3).mean(axis=(1, 3))
    assert np.abs(resized(image, (4, 4)) - blocks).max() <= 0.5 + 1e-3
    assert resized(image, (12, 20)) is image
    larger = resized(image, (24, 20))
    assert np.array_equal(larger[::2], image) and np.array_equal(larger[1::2], image)
