"""Whole runs in which generator and trainer are lanes of one process: the same weights, and the same behaviour in all that can go wrong."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvla3.config import Recipe, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.runtimes.local import LocalRuntime
from tests.support.failing import message_of
from tests.support.runs import Run, countdown
from tests.support.thorough import thorough

pytestmark = pytest.mark.usefixtures("no_run_outlives_its_test")

LANES = "trainer and gen"
"""Of a process's name, Linux shows 15 letters."""


def lanes(**changes: Any) -> dict[str, Any]:
    return countdown(**changes | {"engine": {"share": "lanes"} | changes.get("engine", {})})


@pytest.mark.slow
def test_lanes_give_the_weights_of_processes(tmp_path: Path, nothing_left: None):
    """Everything that decides a weight must be each lane's own: the seed that weights are drawn with, gradient mode, inference mode, the number of threads."""
    both = {"policy": {"options": {"hidden": 64}}, "training": {"deterministic": True}}
    runs = {share: Run(tmp_path / share, countdown(**both, engine={"mode": "sync", "share": share})).finished() for share in ("lanes", "processes")}
    assert runs["lanes"].weights(4) == runs["processes"].weights(4)
    logs = {share: sorted(path.name for path in (run.folder / "logs").iterdir() if not path.name.startswith("shard")) for share, run in runs.items()}
    assert logs == {"lanes": ["trainer-and-generator-0.log"], "processes": ["generator-0.log", "trainer.log"]}


@pytest.mark.slow
def test_lanes_train_asynchronously_and_each_is_in_a_stage_at_any_time(tmp_path: Path, nothing_left: None):
    run = Run(tmp_path, lanes(training={"updates": 6, "checkpoint_every": 2}, engine={"generators": 2, "trace": True}, evaluation={"after": True})).finished()
    assert run.summary["tickets"] == {"issued": 48, "trained": 48, "rerun": 0, "set_aside": 0}
    workers = {worker["name"]: worker for worker in run.summary["workers"]}
    for name in ("trainer", "generator 0", "generator 1"):
        assert sum(workers[name]["busy"].values()) + sum(workers[name]["idle"].values()) == pytest.approx(1)
    assert workers["trainer"]["busy"]["train"] > 0 and workers["generator 0"]["busy"]["infer"] > 0
    assert all(f'"name":"{name}"' in run.folder.joinpath("trace.json").read_text().replace(": ", ":") for name in ("trainer", "generator 0"))


@pytest.mark.slow
@pytest.mark.parametrize("worker", ["generator", *thorough("trainer")])
def test_an_error_in_one_lane_is_the_one_message_of_the_run(tmp_path: Path, worker: str, nothing_left: None):
    error = "rlvla3.errors:RecipeError"
    run = Run(tmp_path, lanes(policy={"name": "tests.support.failing_policy:FailingPolicy", "options": {"error": error, "worker": worker}}))
    printed = run.wait()
    assert run.process.returncode == 2
    assert printed.count(message_of(error)) == 1 and "Traceback" not in printed and "was lost" not in printed


@pytest.mark.thorough
@pytest.mark.slow
def test_an_interrupt_keeps_a_checkpoint_of_lanes_and_the_run_goes_on_as_processes(tmp_path: Path, nothing_left: None):
    recipe = lanes(simulator={"options": {"kwargs": {"step_s": 0.02}}}, training={"updates": 1000, "checkpoint_every": 1000})
    run = Run(tmp_path, recipe)
    run.until(lambda: len(run.records("update")) >= 2)
    os.killpg(run.process.pid, signal.SIGINT)
    printed = run.wait()
    assert run.process.returncode == 130, printed
    done = run.summary["updates"]
    resumed = Run(tmp_path, None, run.folder, f"training.updates={done + 2}", "engine.share=processes").finished()
    assert resumed.summary["updates"] == done + 2
    assert not any("cannot repeat" in notice for notice in resumed.summary["notices"])


@pytest.mark.slow
def test_a_second_interrupt_ends_lanes_at_once(tmp_path: Path, nothing_left: None):
    run = Run(tmp_path, lanes(simulator={"options": {"kwargs": {"step_s": 20.0}}}))
    run.until(lambda: run.workers("shard 0") and "train" in [record["phase"] for record in run.records("phase")])
    for _ in range(2):
        os.killpg(run.process.pid, signal.SIGINT)
        run.until(lambda: any("interrupted" in record["text"] for record in run.records("notice")))
    run.wait()
    assert run.process.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize("trains", [True, *thorough(False)])
def test_what_was_measured_decides_who_lives_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trains: bool, nothing_left: None):
    async def lanes_are_better(recipe: Recipe, logs: Path, notify: Callable[[str], None]) -> str:
        return "lanes"

    async def processes() -> list[int]:
        run = RunDirectory.create(tmp_path / "run", recipe)
        async with LocalRuntime(recipe, run, capacity=8, notify=print, trainer=trains) as runtime:
            await runtime.guard(runtime.ready())
            return [worker.process.pid for worker in runtime._host._workers if worker.process.pid is not None]

    recipe = make_recipe(countdown(simulator={"shards": 1}))
    monkeypatch.setattr("rlvla3.runtimes.local.choose_share", lanes_are_better)
    pids = asyncio.run(processes())
    assert (len(pids), len(set(pids))) == ((2, 1) if trains else (1, 1))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("share", ["auto", "lanes", "processes"])
def test_a_gpu_is_shared_in_every_way(tmp_path: Path, share: str, nothing_left: None):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    summary = Run(tmp_path, countdown(engine={"device": "cuda", "share": share}, training={"device": "cuda"})).finished().summary
    assert summary["tickets"]["trained"] == 32
    if share != "lanes":
        assert any("cuda:0" in notice and ("at once" in notice or "in turn" in notice) for notice in summary["notices"])


@pytest.mark.gpu
def test_the_graphs_of_a_lane_have_its_priority():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    from rlvla3.inference.graphs import Recorder
    from rlvla3.runtimes.workers.lanes import INFERENCE_PRIORITY, TRAINING_PRIORITY, lane_stream

    device = torch.device("cuda", 0)
    for priority in (INFERENCE_PRIORITY, TRAINING_PRIORITY):
        with lane_stream(device, priority):
            assert Recorder(device)._stream.priority == torch.cuda.current_stream(device).priority == priority


REFUSED = [
    ({"engine": {"offload": True, "mode": "sync"}}, "engine.offload=true they use it in turn: set engine.share=processes"),
    ({"runtime": "ray"}, "engine.share=lanes is for one host, and runtime=ray has many"),
    ({"training": {"threads": 2}}, "engine.threads=1 and training.threads=2 must be the same"),
]


@pytest.mark.parametrize(("changes", "complaint"), REFUSED)
def test_lanes_are_refused_where_they_cannot_be(changes: dict[str, Any], complaint: str):
    with pytest.raises(RecipeError, match=complaint.replace(".", r"\.")):
        make_recipe(lanes(**changes))
