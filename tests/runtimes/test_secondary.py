"""What is secondary does not end a run: stdout, files beside the weights, a full disk. And what each signal does to a whole run."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from rlvla3.observability.run_directory import RunDirectory, version_of
from rlvla3.signals import ENDS, KEEPS
from tests.support.repository import python_path
from tests.support.runs import LIMIT_S, MARK, Run, countdown
from tests.support.thorough import thorough

pytestmark = [pytest.mark.usefixtures("no_run_outlives_its_test"), pytest.mark.slow]

LONG: dict[str, Any] = {"simulator": {"options": {"kwargs": {"step_s": 0.02}}}, "training": {"updates": 1000, "checkpoint_every": 1000}}


def notices(run: Run, words: str) -> list[str]:
    return [notice["text"] for notice in run.records("notice") if words in notice["text"]]


@pytest.mark.parametrize("number", [signal.SIGTERM, *thorough(*(number for number in ENDS if number != signal.SIGTERM))])
def test_each_signal_that_ends_a_run_keeps_a_checkpoint_and_is_named(tmp_path: Path, number: signal.Signals, nothing_left: None) -> None:
    run = Run(tmp_path, countdown(**LONG))
    run.until(lambda: len(run.records("update")) >= 2)
    os.killpg(run.process.pid, number)  # to every process of the run, as a terminal or a batch system does
    printed = run.wait()
    assert run.process.returncode == 128 + number, printed
    assert run.summary["ended"] == ("interrupted" if number == signal.SIGINT else f"interrupted by {number.name}")
    newest = RunDirectory(run.folder).latest_checkpoint()
    assert newest is not None and version_of(newest) == run.summary["updates"]


@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGUSR1, 2), *thorough(*((number, 1) for number in KEEPS))])
def test_a_warning_keeps_a_checkpoint_and_the_run_goes_on(tmp_path: Path, number: signal.Signals, ranks: int, nothing_left: None) -> None:
    run = Run(tmp_path, countdown(simulator=LONG["simulator"], training=LONG["training"] | {"ranks": ranks}))
    run.until(lambda: len(run.records("update")) >= 2)
    os.killpg(run.process.pid, number)
    run.until(lambda: notices(run, "kept in"))
    kept = RunDirectory(run.folder).latest_checkpoint()
    assert kept is not None and number.name in notices(run, "a checkpoint is kept after update")[0]
    run.until(lambda: run.records("update")[-1]["update"] > version_of(kept) + 2)
    os.killpg(run.process.pid, signal.SIGTERM)
    run.wait()
    assert run.summary["updates"] > version_of(kept)


def test_a_warning_while_nothing_is_trained_does_nothing(tmp_path: Path, nothing_left: None) -> None:
    run = Run(tmp_path, countdown(simulator={"options": {"kwargs": {"step_s": 0.1}}}, evaluation={"before": True, "episodes": 1000}))
    run.until(lambda: "evaluate" in [record["phase"] for record in run.records("phase")])
    os.killpg(run.process.pid, signal.SIGUSR1)
    run.until(lambda: notices(run, "nothing new to keep"))
    os.killpg(run.process.pid, signal.SIGHUP)
    assert run.wait() and run.process.returncode == 128 + signal.SIGHUP


def started(tmp_path: Path, redirection: str, *options: str) -> subprocess.Popen[str]:
    """A short run, started by a shell with its stdout and stderr redirected."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(countdown()))
    command = f"{sys.executable} -m rlvla3 train {tmp_path / 'recipe.yaml'} --run-dir {tmp_path / 'run'} {' '.join(options)}"
    environment = os.environ | {"PYTHONPATH": python_path(), MARK: str(os.getpid())}
    words = ["bash", "-o", "pipefail", "-c", f"{command} {redirection}"]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


@pytest.mark.parametrize(
    ("redirection", "options"),
    [
        ("| head -n 1", ()),
        ("<&- >&- 2>&-", ()),
        *thorough(("| head -n 1", ("--json",)), ("> /dev/full 2>&1", ()), (">&- 2> /dev/full", ())),
    ],
)
def test_a_run_goes_on_without_its_stdout(tmp_path: Path, redirection: str, options: tuple[str, ...], nothing_left: None) -> None:
    shell = started(tmp_path, redirection, *options)
    _, complaints = shell.communicate(timeout=LIMIT_S)
    assert shell.returncode == 0, complaints
    assert complaints == ""
    run = RunDirectory(tmp_path / "run")
    assert run.ended() == "finished"
    newest = run.latest_checkpoint()
    assert newest is not None and version_of(newest) == 4
    told = [line["text"] for line in run.metric_lines() if line["event"] == "notice" and line["text"].startswith("stdout")]
    assert len(told) == (">&-" not in redirection)


def test_a_disk_that_is_full_for_a_while_costs_the_record_and_nothing_else(tmp_path: Path, nothing_left: None) -> None:
    """A limit on the size of files stands for the disk: what is written beyond it fails as on a full one."""
    recipe = countdown(simulator=LONG["simulator"], training=LONG["training"] | {"checkpoint_every": 2}, engine={"trace": True})
    run = Run(tmp_path, recipe)
    run.until(lambda: len(run.records("update")) >= 3)
    everyone, lines = [psutil.Process(run.process.pid), *run.workers()], list[str]()
    _limit_files(everyone, 100)
    assert run.process.stdout is not None
    while len([line for line in lines if "checkpoint" in line and "could not be written" in line]) < 2:
        lines.append(run.process.stdout.readline())
        assert lines[-1], "".join(lines)
    _limit_files(everyone, resource.RLIM_INFINITY)
    os.killpg(run.process.pid, signal.SIGTERM)
    said = "".join(lines) + run.wait()
    assert run.process.returncode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said
    newest = RunDirectory(run.folder).latest_checkpoint()
    assert newest is not None and version_of(newest) == run.summary["updates"]
    updates = [record["update"] for record in run.records("update")]
    assert updates == list(range(1, len(updates) + 1)) and len(updates) == run.summary["updates"]
    assert said.count("the record is given up") >= 1 and not (run.folder / "record" / "recipe.yaml").exists()
    for what in ("metrics.jsonl", "summary.json", "TensorBoard's curves"):
        assert len([line for line in said.splitlines() if f"] {what}: " in line and "The run goes on" in line]) <= 1, said
    assert (run.folder / "trace.json").is_file()


def _limit_files(processes: list[psutil.Process], most: int) -> None:
    """most: the bytes that a file may have."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
