"""A run directory as plain data."""

from __future__ import annotations

import fcntl
import json
import math
import os
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvla3.config import load_recipe
from rlvla3.observability.run_directory import LOCK_TRIES, RunDirectory, RunDirectoryError
from rlvla3.page.at_work import is_locked, is_shared
from rlvla3.page.run_metrics import WHOLE, shares
from rlvla3.page.run_reader import RunReader
from rlvla3.page.run_settings import differing, read_settings
from rlvla3.page.shown import finite, json_text, run_json
from tests.support.made_runs import lines, make_run, rate, update_line, write_lines
from tests.support.told_runs import silent


def read(path):
    reader = RunReader(path)
    reader.refresh()
    return reader


def test_a_run_that_has_ended(tmp_path):
    reader = read(make_run(tmp_path / "run"))
    metrics = reader.metrics
    assert (reader.complete, reader.damaged, reader.state(), reader.ended) == (True, 0, "ended", "finished")
    assert metrics.update == 60 and metrics.last["environment_steps"] == 640 * 60
    assert set(metrics.rollouts) == {WHOLE, "push-v3", "reach-v3"}
    assert sum(bucket.episodes for bucket in metrics.rollouts[WHOLE]) == 60 * 16
    assert [bucket.place[:2] for bucket in metrics.evaluations[WHOLE]] == [(10 * n, 6400 * n) for n in range(1, 7)]
    assert metrics.curves["learner/entropy"].points()[-1].value == 1.0
    assert metrics.staleness == {0: 240, 1: 720}
    assert [told.text for told in metrics.notices] == ["drawing: OSMesa on the CPU"]


def test_the_shares_of_every_worker_sum_to_one(tmp_path):
    metrics = read(make_run(tmp_path / "run")).metrics
    assert len(metrics.workers) == 5
    for spent in metrics.workers.values():
        assert sum(shares(spent).values()) == pytest.approx(1.0)
    for over_time in metrics.spent.values():
        assert all(sum(shares(bucket.spent).values()) == pytest.approx(1.0) for bucket in over_time)


def test_a_run_is_read_while_it_goes_on(tmp_path):
    run = make_run(tmp_path / "run", updates=10, ended="running")
    reader = read(run)
    write_lines(run, [update_line(11)])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "update", "upd')
    reader.refresh()
    assert reader.metrics.update == 11 and reader.damaged == 0


def test_a_run_that_goes_on_from_an_earlier_update_is_read_again(tmp_path):
    run = make_run(tmp_path / "run", updates=20)
    reader = read(run)
    (run / "metrics.jsonl").rename(run / "old")
    write_lines(run, lines(10))
    reader.refresh()
    assert reader.metrics.update == 10
    assert sum(bucket.episodes for bucket in reader.metrics.rollouts[WHOLE]) == 160


def test_the_evaluation_after_training_stays_where_its_version_was_made_when_the_run_goes_on(tmp_path):
    run = make_run(tmp_path / "run", updates=20)
    write_lines(run, [{"seconds": 130.0, "event": "evaluation", "when": "after", "version": 20, **rate(9, 32)}, *map(update_line, range(21, 31))])
    shown = run_json(read(run))
    assert shown["steps"] == 30 * 640 and shown["ends"]["after"]["place"] == (20, 20 * 640, 120.0)


def test_a_long_file_is_shown_before_all_of_it_is_read(tmp_path):
    run = make_run(tmp_path / "run", updates=2000)
    reader = RunReader(run)
    reader.refresh(patience_s=0.0)
    first = reader.complete
    assert not first and 0 < reader.read_share < 1
    glance = reader.metrics
    assert glance.update == 2000 and len(glance.curves["learner/policy_loss"].points()) > 100
    assert {point.value for point in glance.curves["engine/update_seconds"].points()} == {5.0}
    assert [run_json(reader)[name] for name in ("staleness", "lost", "notices")] == [None] * 3
    while not reader.complete:
        reader.refresh(patience_s=0.0)
    assert sum(bucket.episodes for bucket in reader.metrics.rollouts[WHOLE]) == 2000 * 16
    assert len(reader.metrics.curves["learner/policy_loss"].points()) <= 1000


def test_long_lines_are_seen_at_first_too(tmp_path):
    reader = RunReader(make_run(tmp_path / "run", updates=20, shards=400))
    reader.refresh(patience_s=0.0)
    assert not reader.complete and reader.metrics.update == 20


def test_the_seconds_of_an_update_are_not_known_where_the_one_before_it_is_missing(tmp_path):
    run = make_run(tmp_path / "run", updates=0)
    write_lines(run, [update_line(number) for number in (1, 2, 7, 8)])
    metrics = read(run).metrics
    assert [(point.place.update, point.value) for point in metrics.curves["engine/update_seconds"].points()] == [(1, 5.0), (2, 5.0), (8, 5.0)]
    assert sum(metrics.workers["trainer"].values()) == pytest.approx(15.0)


def test_damaged_lines_are_left_out_and_counted(tmp_path):
    run = make_run(tmp_path / "run", updates=5)
    bad = [b"{", b"\xff\xfe", b"null", b'{"event": "update", "seconds": 1}', b'{"event": 3, "seconds": "x"}', b"[" * 5000]
    with (run / "metrics.jsonl").open("ab") as file:
        file.writelines(line + b"\n" for line in bad)
    write_lines(run, [update_line(6)])
    reader = read(run)
    assert reader.damaged == len(bad) and reader.metrics.update == 6


def test_what_has_no_schema_in_a_line_does_no_harm(tmp_path):
    odd = update_line(1) | {
        "batching": [3, {"max_batch": 10**400, "x": "y"}, None],
        "rollouts": rate(1, 2) | {"mean_steps": [], "per_task": {"a": 3, "b": {"successes": 9, "episodes": 1}}},
    }
    odd["staleness"] = {"x": 1, "9" * 50: 2}
    make_run(tmp_path / "run", updates=0)
    write_lines(tmp_path / "run", [odd, {"event": "phase", "seconds": 3, "phase": ["x"], "total": "many"}])
    assert read(tmp_path / "run").metrics.update == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.recursive(st.none() | st.floats() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)).map(
                lambda value: json.dumps(value).encode()
            ),
        ),
        max_size=8,
    )
)
def test_any_bytes_may_stand_in_any_file(tmp_path, contents):
    for name in ("metrics.jsonl", "config.yaml", "summary.json"):
        (tmp_path / name).write_bytes(b"\n".join(contents))
    reader = read(tmp_path)
    assert reader.metrics.update == 0
    assert reader.state() in ("running", "ended", "lost")


FIELDS = ("updates", "batching", "best", "per_task", "mean_steps", "mean_return", "low", "phase", "total", "seconds", "wall_seconds", "throughput")
ODD = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from([1e308, -1e308, math.nan, math.inf, 10**400, "5", "<b>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "successes", "episodes", "mean_return"]), inner, max_size=3),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(field=st.sampled_from(FIELDS), inner=st.sampled_from([None, "rollouts", "learner"]), value=ODD)
def test_the_page_is_told_of_a_run_whatever_stands_in_its_lines_and_settings(tmp_path, field, inner, value):
    """No browser reads the NaN and Infinity that Python writes as JSON."""
    found = list(lines(10, shards=1))
    found.append(found[-1] | {"when": "after"})
    for line in found:
        line |= {inner: line[inner] | {field: value}} if inner in line else {field: value}
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in found))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"training": {"updates": value}, "mine": [value], "x": float("-inf")}))
    told = json.loads(json_text(run_json(read(tmp_path))), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert told["settings"]["values"].get("x", "-.inf") == "-.inf" and isinstance(told["updates"], int | float | None)


@given(ODD)
def test_only_numbers_that_are_not_finite_are_replaced(content):
    asked: list[float] = []

    def instead(number: float) -> str:
        asked.append(number)
        return "replaced"

    written = json.dumps(finite(content, instead), allow_nan=False)
    assert bool(asked) == any(word in json.dumps(content) for word in ("NaN", "Infinity"))
    assert asked or json.loads(written) == content


def test_a_setting_without_a_limit_is_shown_as_it_is_written(tmp_path):
    told = run_json(read(make_run(tmp_path / "run", settings={"training": {"gradient_clip": float("inf")}})))
    assert told["settings"]["values"]["training.gradient_clip"] == ".inf" and "training.gradient_clip" in told["settings"]["changed"]


def test_an_empty_and_a_missing_folder_are_a_run_of_nothing(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        reader = read(path)
        assert reader.complete and reader.metrics.update == 0 and reader.settings.unread


def test_a_run_is_at_work_while_its_folder_is_locked(tmp_path):
    run = silent(make_run(tmp_path / "run", ended="running"), seconds=3600)
    holds = """
import sys
from pathlib import Path
from rlvla3.observability.run_directory import LOCK_TRIES, RunDirectory, RunDirectoryError
with RunDirectory(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", holds, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert is_locked(run) and read(run).state() == "running"
        process.communicate()
    assert is_locked(run) is False and read(run).state() == "lost"


def test_a_run_that_was_killed_is_seen_at_once_on_a_disk_of_this_machine_and_later_on_a_shared_one(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", ended="running")
    for shared, state in ((False, "lost"), (True, "running")):
        monkeypatch.setattr("rlvla3.page.at_work.is_shared", lambda path, shared=shared: shared)
        told = run_json(read(run))
        assert (told["state"], told["certain"]) == (state, not shared)
    told = run_json(read(silent(run, seconds=3600)))
    assert told["state"] == "lost" and not told["certain"]


def test_kinds_of_disks(monkeypatch, tmp_path):
    for kind, shared in (("ext4", False), ("nfs4", True), ("lustre", True), ("unheard of", True)):
        mounts = [SimpleNamespace(mountpoint="/", fstype="nfs4"), SimpleNamespace(mountpoint=str(tmp_path), fstype=kind)]
        monkeypatch.setattr("psutil.disk_partitions", lambda mounts=mounts, **_: mounts)
        is_shared.cache_clear()
        assert is_shared(tmp_path / "run") == shared
        assert is_shared(tmp_path.parent / "run")
    is_shared.cache_clear()


@pytest.mark.parametrize("ends", [True, False])
def test_a_run_that_starts_while_somebody_asks_tries_again(tmp_path, monkeypatch, ends):
    run = RunDirectory(make_run(tmp_path / "run", ended="running"))
    asks = os.open(run.path, os.O_RDONLY)
    fcntl.flock(asks, fcntl.LOCK_SH)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if ends and len(waits) == 3:
            fcntl.flock(asks, fcntl.LOCK_UN)

    monkeypatch.setattr("rlvla3.observability.run_directory.time", SimpleNamespace(sleep=wait))
    with nullcontext() if ends else pytest.raises(RunDirectoryError, match="is in use by another process"), run.locked():
        assert is_locked(run.path)
    assert len(waits) == (3 if ends else LOCK_TRIES)
    os.close(asks)


def test_settings_and_how_they_differ_from_the_defaults(tmp_path):
    run = make_run(tmp_path / "run", settings={"algorithm": {"gamma": 0.9}, "clone": {"demonstrations": 4}})
    found = read_settings(run / "config.yaml")
    assert found.values["algorithm.gamma"] == 0.9 and "algorithm.gamma" in found.changed and found.defaults["algorithm.gamma"] != 0.9
    assert "algorithm.lam" not in found.changed and "clone.batch" not in found.changed
    assert {"simulator.name", "policy.name", "training.batch", "clone.demonstrations"} <= set(found.changed)


def test_the_simulators_of_a_mix_are_compared_with_the_defaults_of_one(tmp_path):
    mix = {name: {"name": "metaworld", "tasks": [f"{name}-v3"]} for name in ("push", "reach")}
    found = read_settings(make_run(tmp_path / "run", settings={"simulator": None, "simulators": mix}) / "config.yaml")
    assert not found.unread
    assert "simulators.push.tasks" in found.changed and "simulators.push.slots" not in found.changed


def test_settings_of_another_version_are_shown_as_they_are(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"engine": {"warp": 9}}))
    found = read_settings(tmp_path / "config.yaml")
    assert found.values == {"engine.warp": 9} and "warp" in found.unread and not found.changed


def test_the_settings_in_which_runs_differ(tmp_path):
    runs = {seed: read_settings(make_run(tmp_path / f"{seed}", settings={"seed": seed}) / "config.yaml") for seed in (1, 2)}
    assert differing({f"run {seed}": found for seed, found in runs.items()}) == {"seed": {"run 1": 1, "run 2": 2}}


def test_every_shipped_recipe_has_few_settings_that_are_no_defaults(tmp_path):
    from tests.support.repository import ROOT

    for path in (ROOT / "recipes").glob("*.yaml"):
        assert len(read_settings(path).changed) < 40, load_recipe(path)
