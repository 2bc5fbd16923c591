"""machine.jsonl as curves: against a list of its lines, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvla3.config import make_recipe
from rlvla3.observability.machine_use import GpuUse, MachineUse
from rlvla3.page.curves import MOST
from rlvla3.page.explaining import explain
from rlvla3.page.machine_curves import CORES, MEMORY, MachineCurves
from rlvla3.page.run_facts import run_facts
from rlvla3.page.shown import machine_json
from tests.support.told_runs import run_of, update

GIB = 2.0**30


def use(seconds: float, left: float = 6 * GIB, gpus_left: Iterable[float] = (), **changes: Any) -> MachineUse:
    gpus = [GpuUse(name="H200", memory=100 * GIB, memory_used=100 * GIB - gpu) for gpu in gpus_left]
    return MachineUse(seconds=seconds, cores=2, cores_used=1, memory=8 * GIB, memory_left=left, gpus=gpus).model_copy(update=changes)


def write(folder: Path, uses: Iterable[MachineUse], mode: str = "a") -> None:
    with (folder / "machine.jsonl").open(mode) as file:
        file.writelines(f"{each.model_dump_json()}\n" for each in uses)


def read(folder: Path) -> MachineCurves:
    curves = MachineCurves(folder)
    curves.read_whole()
    return curves


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 2 * MOST), st.integers(0, 2 * MOST)), min_size=1, max_size=5))
def test_curves_are_those_of_the_lines_that_still_hold(tmp_path, stretches):
    """stretches: so many lines, after a step back by so many."""
    reference: list[tuple[float, float]] = []
    lines: list[MachineUse] = []
    at = 0
    for count, back in stretches:
        at = max(at - back, 0)
        for _ in range(count):
            reference = [point for point in reference if point[0] <= at] if reference and reference[-1][0] > at else reference
            reference.append((float(at), (len(lines) + 1) * 7919 % 1000 / 1000))
            lines.append(use(at, left=8 * GIB * (1 - reference[-1][1])))
            at += 1
    write(tmp_path, lines, "w")
    curves = read(tmp_path)
    assert not curves.used[MEMORY].curve.empty
    points = [(point.place.seconds, round(point.value, 6)) for point in curves.used[MEMORY].curve.points()]
    assert len(points) <= MOST and all(point in reference for point in points)
    if len(lines) <= MOST // 2:
        assert points == reference
    if all(back == 0 for _, back in stretches):
        assert curves.used[MEMORY].most() == pytest.approx(max(share for _, share in reference))
    assert [one.seconds for one in curves.newest] == [seconds for seconds, _ in reference][-len(curves.newest) :]
    assert (curves.used[MEMORY].began, curves.used[MEMORY].ended) == (reference[0][0], reference[-1][0])


def test_it_is_read_while_it_grows_and_again_where_it_is_another_one(tmp_path):
    curves = MachineCurves(tmp_path)
    curves.refresh()
    assert curves.complete and not curves.used and machine_json(curves) == {"curves": {}, "newest": None}
    write(tmp_path, [use(at) for at in range(5)])
    with (tmp_path / "machine.jsonl").open("ab") as file:
        file.write(b'{"seconds": 1}\n\xff\n[]\n{"sec')
    curves.refresh()
    assert machine_json(curves)["curves"][CORES] == {"seconds": [0.0, 1.0, 2.0, 3.0, 4.0], "share": [0.5] * 5}
    (tmp_path / "machine.jsonl").unlink()
    write(tmp_path, [use(7)])
    curves.refresh()
    assert machine_json(curves)["curves"][CORES]["seconds"] == [7.0]


def test_a_long_file_is_read_in_parts(tmp_path):
    write(tmp_path, (use(at) for at in range(6000)))
    curves = MachineCurves(tmp_path)
    curves.refresh(patience_s=0.0)
    assert not curves.complete
    curves.read_whole()
    assert curves.used[MEMORY].ended == 5999


def memory(tmp_path: Path, uses: Iterable[MachineUse], updates: int = 1, **recipe: Any) -> str:
    folder = run_of(tmp_path / "run", map(update, range(1, updates + 1)), make_recipe({"training": {"updates": 40, "batch": 4}} | recipe))
    write(folder, uses)
    return next(sentence.text for sentence in explain(run_facts(folder)) if sentence.topic == "memory")


def test_the_fullest_moment_of_a_long_run_is_told_however_long_ago_it_was(tmp_path):
    text = memory(tmp_path, (use(at, left=GIB / 4 if at == 30 else 6 * GIB) for at in range(4000)))
    assert "this was free: 256.0 MiB of 8.0 GiB on the host. Little is left on the host" in text


def test_where_it_is_not_known_of_the_whole_run_its_time_is_said(tmp_path):
    text = memory(tmp_path, [use(at, gpus_left=[50 * GIB] if at < 100 else []) for at in range(0, 400, 10)] + [use(400, gpus_left=[50 * GIB])], updates=40)
    assert text.endswith("6.0 GiB of 8.0 GiB on the host, 50.0 GiB of 100.0 GiB on GPU 0 (H200).")
    assert "on the host (known from 3 min 20 s to 6 min 40 s of the run)." in memory(tmp_path / "late", [use(at) for at in range(200, 401, 10)], updates=40)


def test_a_gpu_of_which_later_lines_say_nothing_is_told_of_with_its_time(tmp_path):
    text = memory(tmp_path, [use(at, gpus_left=[GIB] if at < 200 else []) for at in range(401)], updates=40)
    assert "1.0 GiB of 100.0 GiB on GPU 0 (H200) (known from 0 s to 3 min 19 s of the run). Little is left on GPU 0" in text


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"engine": {"device": "cpu"}, "training": {"device": "cpu", "updates": 40, "batch": 4}}, []),
        ({}, [0]),
        ({"engine": {"generators": 2}}, [0, 1]),
        ({"engine": {"device": "cuda:2"}, "training": {"device": "cuda:1", "updates": 40, "batch": 4}}, [1, 2]),
        ({"simulator": {"devices": ["cuda:2"]}}, [0, 2]),
    ],
)
def test_only_gpus_that_the_recipe_uses_are_told_of(tmp_path, recipe, told):
    text = memory(tmp_path, [use(1, gpus_left=[GIB] * 3)], **recipe)
    assert [number for number in range(3) if f"GPU {number}" in text] == told
    assert ("Little is left" in text) == bool(told)


def test_lines_of_earlier_releases_that_count_the_cores_of_others_say_nothing_of_cores(tmp_path):
    folder = run_of(tmp_path / "run", map(update, range(1, 9)))
    write(folder, [use(at, cores=1, cores_used=1.45) for at in range(9)])
    assert "core" not in next(sentence.text for sentence in explain(run_facts(folder)) if sentence.topic == "bound by").partition("generators")[2]
