"""The noise of a decision: it depends on the decision alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rlvla3.policies.noise import decision_noise

keys = st.tuples(st.integers(0, 1), st.integers(0, 2**63 - 1), st.integers(0, 2**31))
shapes = st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple)


def by_definition(seed: int, purpose: int, ticket: int, decision: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The noise of one decision, from a generator that is made for it alone. Recorded runs and published weights depend on these very numbers."""
    bits = np.random.Philox(key=np.array([seed, ticket], np.uint64), counter=np.array([0, decision, purpose, 0], np.uint64))
    return np.asarray(np.random.Generator(bits).standard_normal(shape, dtype=np.float32), np.float32)


@given(st.integers(0, 2**63 - 1), st.lists(keys, max_size=8), shapes, st.integers(0, 3))
def test_noise_is_that_of_a_generator_made_for_each_decision_alone(seed: int, made: list[tuple[int, int, int]], shape: tuple[int, ...], spare: int):
    noise = decision_noise(seed, made, shape)
    assert noise.shape == (len(made), *shape)
    for row, key in zip(noise, made, strict=True):
        np.testing.assert_array_equal(row, by_definition(seed, *key, shape))

    wide = np.full((len(made) + spare, *shape), 7, np.float32)
    given_rows = decision_noise(seed, made, shape, wide)
    np.testing.assert_array_equal(given_rows, noise)
    assert np.shares_memory(given_rows, wide) or not noise.size
    assert (wide[len(made) :] == 7).all()


def test_an_array_with_too_few_rows_is_refused():
    with pytest.raises(ValueError, match="longer"):
        decision_noise(7, [(0, 0, 0), (0, 1, 0)], (2,), np.empty((1, 2), np.float32))


def test_noise_belongs_to_the_decision():
    keys = [(0, ticket, decision) for ticket in range(50) for decision in range(20)]
    noise = decision_noise(7, keys, (5, 4))
    shuffled = np.random.default_rng(0).permutation(len(keys))
    assert (decision_noise(7, [keys[row] for row in shuffled], (5, 4)) == noise[shuffled]).all()
    assert len(np.unique(noise)) > 0.99 * noise.size
    assert not np.isin(decision_noise(8, keys, (5, 4)), noise).mean() > 0.01
    assert not np.isin(decision_noise(7, [(1, *key[1:]) for key in keys], (5, 4)), noise).mean() > 0.01
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.02
    neighbours = noise.reshape(50, 20, -1)
    assert abs((neighbours[:, 1:] * neighbours[:, :-1]).mean()) < 0.03 and abs((neighbours[1:] * neighbours[:-1]).mean()) < 0.03
