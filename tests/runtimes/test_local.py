"""Whole runs with real processes: every mode, dead and hung simulators, interrupts, resume, and nothing left behind."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlvla3.config import Mode
from rlvla3.policies.options import MiniVLAOptions
from tests.support.mismatched_policy import RATIO_LOG
from tests.support.runs import Run, countdown
from tests.support.thorough import thorough

pytestmark = pytest.mark.usefixtures("no_run_outlives_its_test")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sync", "full_async", *thorough("train_async", "rollout_async")])
def test_every_mode_trains_in_metaworld(tmp_path: Path, mode: Mode, nothing_left: None) -> None:
    recipe = {
        "simulator": {"name": "metaworld", "tasks": ["button-press-topdown-v3", "reach-v3"], "shards": 2, "max_steps": 20},
        "policy": {"name": "mini_vla", "options": {"instruction_bytes": 32, "layers": 1}},
        "training": {"updates": 3, "batch": 4, "steps": 2, "epochs": 2, "micro_batch": 7, "critic": {"warmup": 1, "epochs": 1}},
        "engine": {"mode": mode},
        "evaluation": {"episodes": 2, "before": False, "videos": 1},
    }
    run = Run(tmp_path, recipe).finished()
    summary = run.summary
    assert summary["tickets"] == {"issued": 12, "trained": 12, "rerun": 0, "set_aside": 0}
    assert summary["environment_steps"] <= 12 * 20
    assert summary["success_after"]["episodes"] == 2
    assert sum(summary["staleness"].values()) == 12
    assert max(map(int, summary["staleness"])) <= (0 if mode == "sync" else 1)
    for worker in summary["workers"]:
        assert sum(worker["busy"].values()) + sum(worker["idle"].values()) == pytest.approx(1)
    assert len(list((run.folder / "videos").glob("after-*.mp4"))) == 2
    assert len(list((run.folder / "videos").glob("train-*.mp4"))) == 3
    assert all("sampler_mismatch_p99" in update["learner"] for update in run.records("update"))
    assert summary["sampler_mismatch"]["p99"] < MiniVLAOptions.MismatchBounds["fp32"]
    assert not disagreements(summary)


@pytest.mark.slow
def test_a_run_says_once_that_generators_and_trainer_disagree(tmp_path: Path, nothing_left: None) -> None:
    policy = {"name": "tests.support.mismatched_policy:MismatchedActorCritic", "options": {}}
    run = Run(tmp_path, countdown(policy=policy, algorithm={"sampler_correction": "truncated"})).finished()
    for update in run.records("update"):
        assert update["learner"]["sampler_mismatch_mean"] == pytest.approx(math.expm1(RATIO_LOG), rel=1e-4)
    (said,) = disagreements(run.summary)
    assert "sampler_mismatch_p99 is 0.11 in update 0" in said


def disagreements(summary: dict[str, Any]) -> list[str]:
    return [notice for notice in summary["notices"] if "do not compute the same probabilities" in notice]


@pytest.fixture(scope="module")
def sync_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of seed 0, for others to be compared with."""
    return Run(tmp_path_factory.mktemp("sync"), countdown(engine={"mode": "sync"})).finished()


@pytest.mark.slow
def test_sync_gives_the_same_weights_twice(tmp_path: Path, sync_run: Run) -> None:
    assert Run(tmp_path, countdown(engine={"mode": "sync"})).finished().weights(4) == sync_run.weights(4)


@pytest.mark.thorough
@pytest.mark.slow
def test_another_seed_gives_other_weights(tmp_path: Path, sync_run: Run) -> None:
    assert Run(tmp_path, countdown(engine={"mode": "sync"}, seed=1)).finished().weights(4) != sync_run.weights(4)


@pytest.mark.slow
def test_resume_gives_the_weights_of_a_run_that_was_never_stopped(tmp_path: Path, sync_run: Run) -> None:
    half = Run(tmp_path, countdown(engine={"mode": "sync"}, training={"updates": 2})).finished()
    assert Run(tmp_path, None, half.folder, "training.updates=4").finished().weights(4) == sync_run.weights(4)


@pytest.mark.slow
def test_deterministic_streaming_gives_the_weights_of_sync(tmp_path: Path) -> None:
    """With staleness 0 and sums in ticket order nothing but timing is left to differ; batches of one keep inference from depending on who asks together."""
    alike = {"max_batch": 1, "max_staleness": 0}
    streamed = Run(tmp_path / "a", countdown(engine=alike | {"streaming": True, "max_wait_ms": 0.0}, training={"deterministic": True}))
    whole = Run(tmp_path / "b", countdown(engine=alike | {"streaming": False, "max_wait_ms": 0.0}, training={"deterministic": True}))
    assert streamed.finished().weights(4) == whole.finished().weights(4)


@pytest.mark.slow
def test_full_async_reaches_its_staleness_bound_and_never_passes_it(tmp_path: Path) -> None:
    slow = {"options": {"kwargs": {"step_s": 0.01}}}
    summary = Run(tmp_path, countdown(simulator=slow, training={"updates": 8}, engine={"max_staleness": 2})).finished().summary
    assert 1 <= max(map(int, summary["staleness"])) <= 2


def test_a_killed_simulator_costs_a_rerun_and_nothing_else(tmp_path: Path, nothing_left: None) -> None:
    run = Run(tmp_path, countdown(simulator={"options": {"kwargs": {"step_s": 0.02}}}, training={"updates": 12}))
    for updates in (1, 3):
        run.until(lambda: len(run.records("update")) >= updates)  # noqa: B023  # called within this round
        run.until(lambda: run.workers("shard 1"))
        run.workers("shard 1")[0].send_signal(signal.SIGKILL)
    summary = run.finished().summary
    assert summary["tickets"]["trained"] == 12 * 8
    assert summary["tickets"]["rerun"] >= 1
    assert any("shard 1 was lost" in notice for notice in summary["notices"])


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["raise", *thorough("die", "hang")])
def test_a_simulator_in_trouble_is_replaced(tmp_path: Path, trouble: str, nothing_left: None) -> None:
    options = {"kwargs": {"flag": str(tmp_path / "flag"), "trouble": trouble}}
    run = Run(tmp_path, countdown(simulator={"name": "tests.support.troublesome:OnceTroubled", "options": options, "timeout_s": 2}))
    summary = run.finished().summary
    assert summary["tickets"] == {"issued": 32, "trained": 32, "rerun": 1, "set_aside": 0}
    assert any("was lost" in notice for notice in summary["notices"])


@pytest.mark.slow
def test_a_ticket_that_always_fails_ends_the_run_with_its_reason(tmp_path: Path, nothing_left: None) -> None:
    run = Run(tmp_path, countdown(simulator={"name": "tests.support.troublesome:NotANumber"}))
    printed = run.wait()
    assert run.process.returncode == 2
    assert "failed 3 times" in printed and "NaN in rewards" in printed


@pytest.mark.slow
def test_an_interrupt_keeps_a_checkpoint_and_the_run_goes_on_from_it(tmp_path: Path, nothing_left: None) -> None:
    recipe = countdown(simulator={"options": {"kwargs": {"step_s": 0.02}}}, training={"updates": 1000, "checkpoint_every": 1000})
    run = Run(tmp_path, recipe)
    run.until(lambda: len(run.records("update")) >= 2)
    os.killpg(run.process.pid, signal.SIGINT)  # to every process of the run, as a terminal does
    printed = run.wait()
    assert run.process.returncode == 130, printed
    done = run.summary["updates"]
    assert [folder.name for folder in (run.folder / "checkpoints").iterdir()] == [f"{done:06d}"]
    assert run.summary["ended"] == "interrupted"

    resumed = Run(tmp_path, None, run.folder, f"training.updates={done + 2}").finished()
    assert resumed.summary["updates"] == done + 2
    assert resumed.summary["tickets"]["trained"] == 8 * (done + 2)


@pytest.mark.slow
def test_a_second_interrupt_ends_the_run_at_once(tmp_path: Path, nothing_left: None) -> None:
    flag = tmp_path / "flag"
    options = {"kwargs": {"flag": str(flag), "trouble": "hang"}}
    run = Run(tmp_path, countdown(simulator={"name": "tests.support.troublesome:OnceTroubled", "options": options, "timeout_s": 3600}))
    run.until(flag.exists)  # now a step takes longer than anyone will wait
    os.killpg(run.process.pid, signal.SIGINT)
    run.until(lambda: any("interrupted by Ctrl-C: the run finishes update 1" in record["text"] for record in run.records("notice")))
    began = time.monotonic()
    os.killpg(run.process.pid, signal.SIGINT)
    run.wait()
    assert run.process.returncode == 130
    assert time.monotonic() - began < 20  # not a speed: far below the step that it does not wait for


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["start", *thorough("evaluate")])
def test_an_interrupt_outside_training_ends_the_run_there(tmp_path: Path, phase: str, nothing_left: None) -> None:
    run = Run(tmp_path, countdown(simulator={"options": {"kwargs": {"step_s": 0.1}}}, evaluation={"before": True, "episodes": 1000}))
    run.until(lambda: (run.folder / "logs").exists() and phase in [record["phase"] for record in run.records("phase")])
    os.killpg(run.process.pid, signal.SIGINT)
    printed = run.wait()
    assert run.process.returncode == 130, printed
    assert "Traceback" not in printed
    assert run.summary["ended"] == "interrupted"


@pytest.mark.slow
def test_a_killed_coordinator_takes_its_workers_along(tmp_path: Path, nothing_left: None) -> None:
    run = Run(tmp_path, countdown(simulator={"options": {"kwargs": {"step_s": 0.02}}}, training={"updates": 1000}))
    run.until(lambda: run.records("update"))
    workers = run.workers()
    run.process.kill()
    run.process.wait()
    psutil.wait_procs(workers, timeout=20)
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.slow
def test_a_shard_of_two_slots_and_two_generators(tmp_path: Path, nothing_left: None) -> None:
    simulator = {"name": "tests.support.troublesome:Pair", "slots": 2, "shards": 3, "max_steps": 8, "options": {}}
    summary = Run(tmp_path, countdown(simulator=simulator, policy={"chunk": 1}, engine={"generators": 2})).finished().summary
    assert summary["tickets"] == {"issued": 32, "trained": 32, "rerun": 0, "set_aside": 0}
    assert summary["environment_steps"] == sum(2 + ticket % 5 for ticket in range(32))


MIX = {
    "steady": {"name": "tests.support.troublesome:Slider", "max_steps": 6, "shards": 2, "weight": 3, "options": {"kwargs": {"sizes": [3, 2], "step_s": 0.02}}},
    "uneven": {"name": "tests.support.troublesome:SlidingPair", "options": {}, "max_steps": 8, "shards": 1, "slots": 2, "timeout_s": 30.0},
}


@pytest.mark.slow
def test_a_mix_gives_each_simulator_its_share_and_survives_a_killed_one(tmp_path: Path, nothing_left: None) -> None:
    recipe = countdown(training={"updates": 8}, engine={"generators": 2, "serving": "least_loaded"}) | {"simulators": MIX}
    del recipe["simulator"]
    run = Run(tmp_path, recipe)
    run.until(lambda: run.records("update"))
    run.workers("shard 1")[0].send_signal(signal.SIGKILL)
    summary = run.finished().summary
    assert summary["tickets"]["trained"] == 64 and summary["tickets"]["rerun"] >= 1
    for update in run.records("update"):
        assert {task: of_task["episodes"] for task, of_task in update["rollouts"]["per_task"].items()} == {"steady": 6, "uneven": 2}


@pytest.mark.thorough
@pytest.mark.slow
def test_a_mix_in_sync_gives_the_same_weights_twice(tmp_path: Path) -> None:
    recipe = countdown(engine={"mode": "sync"}) | {"simulators": MIX}
    del recipe["simulator"]
    runs = [Run(tmp_path / name, recipe).finished() for name in "ab"]
    assert runs[0].weights(4) == runs[1].weights(4)


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores to bind shards to")
def test_shards_are_bound_to_cores_in_turn(tmp_path: Path) -> None:
    run = Run(tmp_path, countdown(simulator={"shards": 2, "cores": 1, "options": {"kwargs": {"step_s": 0.02}}}, training={"updates": 1000}))
    run.until(lambda: run.records("update"))
    bound = [run.workers(f"shard {number}")[0].cpu_affinity() for number in range(2)]
    assert bound == [[core] for core in sorted(os.sched_getaffinity(0))[:2]]


@pytest.mark.slow
def test_grpo_and_action_tokens(tmp_path: Path, nothing_left: None) -> None:
    recipe = {
        "simulator": {"name": "metaworld", "tasks": ["button-press-topdown-v3"], "shards": 2, "max_steps": 15},
        "policy": {"name": "mini_vla", "options": {"head": "tokens", "instruction_bytes": 32, "layers": 1}},
        "clone": {"demonstrations": 1, "steps": 2},
        "algorithm": {"advantage": "grpo", "group_size": 2},
        "training": {"updates": 2, "batch": 4, "steps": 1, "epochs": 1},
        "evaluation": {"episodes": 2, "videos": 0},
    }
    recipe["simulator"]["max_steps"] = 60  # type: ignore[index]  # the expert needs more than 15
    summary = Run(tmp_path, recipe).finished().summary
    assert summary["tickets"]["trained"] == 8
    assert summary["success_before"]["episodes"] == summary["success_after"]["episodes"] == 2


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("devices", [("cuda", "cuda"), ("cpu", "cuda")])
def test_generator_and_trainer_share_or_split_devices(tmp_path: Path, devices: tuple[str, str]) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    generator, trainer = devices
    summary = Run(tmp_path, countdown(engine={"device": generator}, training={"device": trainer})).finished().summary
    assert summary["tickets"]["trained"] == 32
    assert any("policy.inference=graphs is ready" in notice for notice in summary["notices"]) == (generator == "cuda")
