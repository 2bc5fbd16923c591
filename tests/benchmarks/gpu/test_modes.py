"""The modes and the rehearsal of `rlvla3 bench gpu` at tiny size: real runs on the CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from gymnasium.utils.env_checker import check_env

from rlvla3.benchmarks.gpu import modes, rehearsal
from rlvla3.benchmarks.gpu.modes import MODES, recipe_for
from rlvla3.benchmarks.gpu.policies import POLICIES
from rlvla3.benchmarks.gpu.sheet import Sheet
from rlvla3.benchmarks.gpu.sizes import FULL, TINY
from rlvla3.benchmarks.gpu.tables import TABLES
from rlvla3.benchmarks.still_env import StillEnv
from rlvla3.config import Mode
from rlvla3.preflight import preflight
from rlvla3.runtimes.virtual.costs import Cost, Profile, load_profile

NAME = "mini VLA, tiny"
pytestmark = pytest.mark.usefixtures("no_run_outlives_its_test")


def sheet(folder: Path, earlier: Mapping[str, Any] | None = None, seconds: float = 100) -> Sheet:
    return Sheet(replace(TINY, shortest_s=0.2), earlier or {}, folder / "gpu.json", time.monotonic() + seconds, lambda _: None)


@pytest.mark.parametrize("sizes", [FULL, TINY], ids=["full", "tiny"])
def test_recipes_of_all_policies_and_modes_can_be_run(sizes):
    assert set(MODES) == set(get_args(Mode))
    for name in sizes.running:
        for mode in MODES:
            recipe = recipe_for(POLICIES[name], sizes, mode)
            preflight(recipe, trains=True)
            assert recipe.engine.mode == mode and recipe.environments == sizes.shards * (2 if "pi0" in name else 1)


def test_what_matters_most_is_measured_first():
    order = list(modes._order(FULL))
    assert order[:2] == [("mini VLA 30 M", "sync"), ("mini VLA 30 M", "full_async")]
    assert len(set(order)) == len(order) == len(FULL.running) * len(MODES)


def test_the_still_environment_is_one_of_gymnasium():
    environment = StillEnv(64)
    check_env(environment, skip_render_check=True)
    assert environment.reset(seed=0)[0]["corner3"].shape == (64, 64, 3)


@pytest.mark.slow
def test_a_mode_is_measured_in_a_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(modes, "MODES", ("sync",))
    written = sheet(tmp_path)
    modes.measure(written)
    found = written.figures[NAME]["sync"]
    assert found["steps_per_second"] > 0 and found["ratio_to_sync"] == 1.0
    assert found["workers"].keys() == {"shard", "generator", "trainer"}
    for shares in found["workers"].values():
        assert sum((*shares["busy"].values(), *shares["idle"].values())) == pytest.approx(1)
    assert set(found["staleness"]) == {0}
    assert [len(row) for row in TABLES["modes"].rows(written.figures)] == [len(TABLES["modes"].columns)]


def test_modes_are_compared_with_sync_of_the_same_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rates = iter([100.0, 150.0, 80.0, 120.0])
    workers = [{"name": f"shard {number}", "busy": {"simulate": 0.2 * number}, "idle": {"decision": 1 - 0.2 * number}} for number in (1, 2)]

    async def run(recipe, scratch, enough):
        assert not enough(1, 9.0) and not enough(4, 0.1) and enough(4, 9.0)
        return {"steps_per_second": next(rates), "seconds": 9.0, "staleness": {0: 3}, "workers": workers, "memory_mb": 2**30 / 1e6}

    monkeypatch.setattr(modes, "measure_run", run)
    written = sheet(tmp_path)
    modes.measure(written)
    assert {mode: figures["ratio_to_sync"] for mode, figures in written.figures[NAME].items()} == {
        "sync": 1.0,
        "full_async": 1.5,
        "train_async": 0.8,
        "rollout_async": 1.2,
    }
    shares = written.figures[NAME]["full_async"]["workers"]["shard"]
    assert (shares["busy"]["simulate"], shares["idle"]["decision"]) == (pytest.approx(0.3), pytest.approx(0.7))
    assert written.figures[NAME]["sync"]["host_memory_gib"] == pytest.approx(1)


def test_measured_modes_are_rehearsed_with_the_profile_that_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = Profile(
        name="known",
        source="by hand",
        chunk=5,
        episode_steps=[10],
        simulate=Cost(on="nothing", seconds=[0.1]),
        infer=Cost(on="compute", sizes=[1.0, 2.0], seconds=[0.01, 0.012]),
        train=Cost(on="compute", seconds=[0.001]),
    )
    monkeypatch.setattr(rehearsal, "profile_of", lambda *_: profile)
    written = sheet(tmp_path, {"modes": {NAME: {"sync": {"steps_per_second": 50.0}, "full_async": {"steps_per_second": 60.0}}}})
    rehearsal.measure(written)
    assert load_profile(tmp_path / "gpu.profile.yaml") == profile
    assert written.figures["infer"] == {"1": 10.0, "2": 12.0}
    for compared in written.figures["modes"].values():
        assert compared["error"] == pytest.approx(compared["rehearsed"] / compared["measured"] - 1)
        assert compared["share_of_bound"] == pytest.approx(compared["measured"] / compared["bound"])
        assert compared["rehearsed"] <= compared["bound"] * 1.001 and compared["bound_by"] in ("environments", "staleness", "longest episode")
    assert [len(row) for row in TABLES["rehearsal"].rows(written.figures)] == [len(TABLES["rehearsal"].columns)] * 2


def test_sync_is_not_measured_where_full_async_would_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def run(*_):
        raise AssertionError("nothing is run")

    monkeypatch.setattr(modes, "measure_run", run)
    written = sheet(tmp_path, seconds=1.5)  # a mode takes 1 s at tiny size
    modes.measure(written)
    assert len(written.not_run) == len(MODES) and not written.figures


def test_modes_for_which_no_time_is_left_are_listed(tmp_path: Path):
    written = sheet(tmp_path, seconds=0)
    modes.measure(written)
    assert written.not_run == {f"{NAME}, {mode}": "time" for mode in MODES}


def test_nothing_is_rehearsed_where_nothing_was_measured(tmp_path: Path):
    written = sheet(tmp_path)
    rehearsal.measure(written)
    assert not written.figures and "no mode was measured" in written.not_run["rehearsals"]
