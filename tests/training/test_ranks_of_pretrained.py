"""Pretrained families in shards on two ranks: they make the updates that one rank makes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.ranks import Done, Work, alone, do_all, together
from tests.support.vla import FAMILIES

pytestmark = [pytest.mark.usefixtures("no_run_outlives_its_test"), pytest.mark.slow]
ALL = ["vision", "language", "expert"]
TRAINING = {"sharding": "full", "epochs": 1, "steps": 1, "micro_batch": 5, "learning_rate": 1e-5, "critic": {"epochs": 1, "learning_rate": 1e-5}}
WORKS = {family: Work(family, exact=False, options={"train": ALL}, training=TRAINING, updates=2) for family in FAMILIES}
WORKS |= {
    f"{family} adapters": Work(family, exact=False, options={"train": ["expert"], "lora": {"rank": 2}}, training=TRAINING | {"gradient_checkpointing": True})
    for family in FAMILIES
}


@pytest.fixture(scope="module")
def by_two() -> dict[str, list[Done]]:
    return dict(zip(WORKS, zip(*together(2, do_all, list(WORKS.values())), strict=True), strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", WORKS)
def test_two_ranks_make_the_updates_of_one(by_two: dict[str, list[Done]], name: str) -> None:
    one = alone(WORKS[name])
    for rank in by_two[name]:
        assert len(rank.gradients) == len(one.gradients) > 0
        assert max(np.abs(whole).max() for whole in one.gradients) > 0
        for ours, whole in zip(rank.gradients, one.gradients, strict=True):
            assert np.abs(ours - whole).max() <= 1e-4 * np.abs(whole).max()
        for parameter, expected in one.weights.items():
            np.testing.assert_allclose(rank.weights[parameter], expected, rtol=0, atol=1e-6 * max(1, np.abs(expected).max()), err_msg=parameter)
