"""`rlvla3 bench chaos`: which faults a round has, what it notices, and that today's engine stands the commonest ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rlvla3.benchmarks.chaos import orders
from rlvla3.benchmarks.chaos.accounts import other_weights, wrong_accounts
from rlvla3.benchmarks.chaos.chaos_report import report
from rlvla3.benchmarks.chaos.faults import FAULTS
from rlvla3.benchmarks.chaos.leftovers import leftovers, shared_blocks
from rlvla3.benchmarks.chaos.observed_run import MARK, Cluster, ObservedRun
from rlvla3.benchmarks.chaos.rounds import Outcome, RoundOutcome, faults_of
from rlvla3.benchmarks.chaos.settings import SETTINGS, recipe
from rlvla3.benchmarks.chaos.world import LENGTH
from rlvla3.cli import main
from rlvla3.config import make_recipe


def test_there_are_faults_of_every_role_and_stage() -> None:
    assert len(FAULTS) >= 12
    for runtime in ("local", "ray"):
        met = {fault.name for number in range(40) for fault in faults_of(0, number, runtime)[1]}
        assert met == {fault.name for fault in FAULTS.values() if runtime in fault.runtimes}


def test_a_round_depends_on_its_seed_and_number_only_and_no_kind_is_left_behind() -> None:
    assert faults_of(3, 5, "local") == faults_of(3, 5, "local") != faults_of(4, 5, "local")
    for setting in SETTINGS:
        rounds = [faults_of(1, number, "local") for number in range(60)]
        done = Counter(fault.name for of, faults in rounds if of == setting for fault in faults)
        assert max(done.values()) - min(done.values()) <= 1, setting


def test_only_the_kinds_that_are_asked_for_are_done() -> None:
    setting, faults = faults_of(0, 0, "local", only=["hold-up-then-kill"])
    assert (setting, {fault.name for fault in faults}) == ("slow trainer", {"hold-up-then-kill"})


@pytest.mark.parametrize(
    ("kind", "line", "tells"),
    [
        ("kill-shard", "shard 3 was lost (it was killed by SIGKILL); its 1 running tickets are run again", True),
        ("shard-hangs-in-step", "shard 3 has taken 5 s for one chunk. Nobody waits for it", True),
        ("shard-hangs-in-step", "1 of 4 simulators still being built, for 8 s", False),
        ("stop-generator", "generator 0 is stopped: something sent a stop signal to its process 7 at least 4 s ago", True),
        ("kill-generator", "trainer and generator 0 still being built, for 8 s", False),
        ("stop-trainer", "trainer waits for a command and has not answered for 5 s", True),
        ("lost-node", "host 1 was lost; its 4 running tickets are run again, and Ray restarts it", True),
        ("kill-trainer", "the trainer was lost: it was killed by SIGKILL: the run goes on from checkpoint 4", True),
    ],
)
def test_a_user_is_told_by_a_line_that_says_who_was_lost_or_late(kind: str, line: str, tells: bool) -> None:
    assert bool(re.search(FAULTS[kind].told, line)) is tells


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_is_a_recipe(setting: str) -> None:
    assert make_recipe(recipe(setting)).training.batch == 8


def test_one_process_obeys_an_order_and_the_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(orders.FOLDER, str(tmp_path))
    orders.give(tmp_path, "step", "nan")
    assert [orders.obey("reset"), orders.obey("step"), orders.obey("step")] == ["", "nan", ""]
    orders.give(tmp_path, "step", "raise")
    with pytest.raises(RuntimeError, match="blew up"):
        orders.obey("step")
    orders.give(tmp_path, "save", "kill")
    assert orders.withdraw(tmp_path, "save") and not orders.withdraw(tmp_path, "save")


def test_a_clock_is_stepped_in_processes_that_obey_all_the_time(tmp_path: Path) -> None:
    orders.give(tmp_path, orders.CLOCK_STEP, "86400")
    program = "import time; real = time.time; from rlvla3.benchmarks.chaos import world; print(time.time() - real() > 86000)"
    ran = subprocess.run([sys.executable, "-c", program], env=os.environ | {orders.FOLDER: str(tmp_path)}, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True"


def test_a_process_that_is_left_is_found_wherever_it_hangs_and_killed(tmp_path: Path) -> None:
    run = ObservedRun(tmp_path, f"left-{os.getpid()}", recipe("sync"))
    (run.scratch / "forgotten").touch()
    run.path.mkdir()
    (run.path / ".partial.summary.json").touch()
    program = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], stdout=-3, start_new_session=True).pid)"
    command, variables = [sys.executable, "-c", program], os.environ | {MARK: f"left-{os.getpid()}"}
    orphan = int(subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True).stdout)
    found = leftovers(run, shared_blocks(), graceful=True)
    assert len(found) == 3 and f"process {orphan} " in found[0]
    assert found[1:] == ["temporary file forgotten is left", ".partial.summary.json is left"]
    assert not run.processes()


def made_up(
    folder: Path, *, updates: int = 2, summary: dict[str, Any] | None = None, lines: tuple[dict[str, Any], ...] = (), weight: float = 0.0
) -> ObservedRun:
    """A run of 2 updates of 8 tickets, as it is kept."""
    run = ObservedRun(folder, "made up", recipe("sync"))
    policy = run.path / "checkpoints" / f"{updates:06d}" / "policy"
    policy.mkdir(parents=True)
    save_file({"weight": np.full(2, weight)}, policy / "model.safetensors")
    (run.path / "config.yaml").write_text((folder / "recipe.yaml").read_text())
    counts = {"tickets": {"issued": 16, "trained": 16, "rerun": 0, "set_aside": 0}, "environment_steps": 16 * LENGTH} | (summary or {})
    (run.path / "summary.json").write_text(json.dumps(counts))
    kept = lines or ({"event": "update", "update": 1}, {"event": "update", "update": 2})
    (run.path / "metrics.jsonl").write_text("\n".join(map(json.dumps, kept)))
    return run


def test_exact_accounts_are_exact(tmp_path: Path) -> None:
    assert wrong_accounts(made_up(tmp_path)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"summary": {"tickets": {"issued": 16, "trained": 8, "rerun": 0, "set_aside": 0}}}, "8 tickets count as trained and not 16"),
        ({"summary": {"tickets": {"issued": 8, "trained": 16, "rerun": 0, "set_aside": 0}}}, "8 tickets count as issued and 16 as trained"),
        ({"summary": {"environment_steps": 48}}, "48 environment steps and not 96"),
        ({"lines": ({"event": "update", "update": 2},)}, r"updates \[1\] are missing in metrics.jsonl"),
        ({"lines": tuple({"event": "update", "update": update} for update in (1, 2, 2))}, "update 2 stands in metrics.jsonl 2 times"),
        (
            {"lines": tuple({"event": "evaluation", "when": "before", "version": 0} for _ in range(2))},
            "evaluation before of version 0 stands in metrics.jsonl 2 times",
        ),
    ],
)
def test_wrong_accounts_are_told(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    found = wrong_accounts(made_up(tmp_path, **changes))
    assert re.search(said, "\n".join(found)), found


def test_a_gap_that_is_announced_is_no_mistake(tmp_path: Path) -> None:
    lines = ({"event": "notice", "text": "metrics.jsonl has no line of update 1"}, {"event": "update", "update": 2})
    assert wrong_accounts(made_up(tmp_path, lines=lines)) == []


def test_one_bit_of_the_weights_is_seen(tmp_path: Path) -> None:
    run, same, other = (made_up(tmp_path / name, weight=weight) for name, weight in (("run", 1.0), ("same", 1.0), ("other", np.nextafter(1.0, 2.0))))
    assert other_weights(run, same) == []
    assert "1 tensors" in other_weights(run, other)[0]


def test_workers_are_found_by_their_names_in_a_cluster_too(tmp_path: Path) -> None:
    program = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'shard 7'); print('named', flush=True); time.sleep(600)"
    mark = f"cluster-{os.getpid()}"
    worker = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {MARK: mark}, stdout=subprocess.PIPE)
    try:
        assert worker.stdout is not None
        worker.stdout.readline()
        run = ObservedRun(tmp_path, "another", recipe("sync"), Cluster(mark, tmp_path / "orders", "", lambda _: None))
        assert [(name, process.pid) for name, process in run.workers("shard").items()] == [("shard 7", worker.pid)]
    finally:
        worker.kill()
        worker.wait()


def test_the_report_counts_and_says_how_to_repeat_a_failure() -> None:
    well = Outcome("kill-shard", "shard 1 got SIGKILL", told_s=0.5, back_s=1.5)
    bad = Outcome("kill-all", "every process got SIGKILL", ended=True, wrong=["process 7 is left"])
    lines = list(report([RoundOutcome(4, "sync", "local", [well, bad], updates=9)], seed=3))
    assert lines[0] == "2 faults of 2 kinds in 1 rounds, seed 3"
    assert [line.split()[:4] for line in lines[2:4]] == [["kill-all", "1", "0", "1"], ["kill-shard", "1", "1", "0"]]
    assert lines[4:6] == ["1 wrong", "  round 4, sync: kill-all: process 7 is left"]
    assert lines[-1] == "one of them again: rlvla3 bench chaos --runtime local --seed 3 --first 4 --faults 2"


def test_an_unknown_kind_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "chaos", "--only", "kill-everyone"]) == 2
    assert "--only kill-everyone is no kind of fault: write some of kill-shard, " in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_simulator_and_a_killed_run_cost_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--only", "kill-shard", "kill-all"]
    status = main(["bench", "chaos", "--minutes", "2", "--faults", "2", *only, "--json", str(tmp_path / "figures.json")])
    assert status == 0, capsys.readouterr().out
    (made,) = json.loads((tmp_path / "figures.json").read_text())["rounds"]
    assert {fault["kind"] for fault in made["faults"]} == {"kill-shard", "kill-all"}
    assert made["updates"] > 0, "a run that is killed before its first checkpoint begins anew, and goes on"
