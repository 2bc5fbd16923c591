"""Whole runs of the `rlvla3` command with real processes, and whether they leave anything behind."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml
from safetensors.numpy import load_file

from tests.support.repository import python_path

LIMIT_S = 240
"""Seconds. It only guards against hanging: a run that takes 5 s alone may take 100 s on a machine that has much other work."""

MARK = "RLVLA3_TEST_SESSION"
"""An environment variable that every process of a run inherits: other runs on this machine are not these tests' business."""


def countdown(**changes: Any) -> dict[str, Any]:
    """A recipe that is over in a few seconds."""
    recipe: dict[str, Any] = {
        "simulator": {"name": "tests.support.troublesome:Countdown", "shards": 3, "max_steps": 6},
        "policy": {"name": "actor_critic", "chunk": 2, "options": {"hidden": 8}},
        "training": {"updates": 4, "batch": 8, "steps": 2, "epochs": 2, "micro_batch": 5, "critic": {"epochs": 1}},
        "evaluation": {"episodes": 6, "before": False, "after": False},
    }
    for section, settings in changes.items():
        recipe[section] = recipe.get(section, {}) | settings if isinstance(settings, dict) else settings
    return recipe


class Run:
    """`rlvla3 train` on a recipe, as a user would start it."""

    def __init__(self, folder: Path, recipe: dict[str, Any] | None, start: Path | None = None, *overrides: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = start or folder / "run"
        if recipe is not None:
            (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        given = [str(start)] if start else [str(folder / "recipe.yaml"), "--run-dir", str(self.folder)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlvla3", "train", *given, *overrides],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": python_path(), MARK: str(os.getpid())},
        )

    def wait(self) -> str:
        """What the run printed, once it has ended."""
        printed, _ = self.process.communicate(timeout=LIMIT_S)
        return printed

    def finished(self) -> Run:
        printed = self.wait()
        assert self.process.returncode == 0, printed
        return self

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something the run brings about; only tests may poll."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def workers(self, name: str = "") -> list[psutil.Process]:
        """The run's own processes, all or those called `name`."""
        return [child for child in psutil.Process(self.process.pid).children(recursive=True) if name in _name(child)]

    def records(self, event: str) -> list[dict[str, Any]]:
        metrics = self.folder / "metrics.jsonl"
        lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []  # the last line may still be written
        return [record for record in map(json.loads, lines) if record["event"] == event]

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary

    def weights(self, version: int) -> dict[str, bytes]:
        return {name: array.tobytes() for name, array in load_file(self.folder / "checkpoints" / f"{version:06d}" / "policy" / "model.safetensors").items()}


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return "ended"


GUARDS = ("multiprocessing.resource_tracker", "process_tree")
"""Words of the command lines of two kinds of processes. Each belongs to another process, clears up after it, and ends by itself a moment after it."""


def is_guard(process: psutil.Process) -> bool:
    try:
        return any(name in " ".join(process.cmdline()) for name in GUARDS)
    except psutil.Error:  # ended by now, or somebody else's
        return False


def until_guards_ended() -> None:
    """Wait until what this test session's runs have left is cleared up. Call it when the runs have ended."""
    psutil.wait_procs([process for process in psutil.process_iter() if _is_ours(process) and is_guard(process)], timeout=LIMIT_S)


def traces(scratch: Path) -> set[str]:
    """Processes of this test session's runs, wherever they hang in the tree by now, and files."""
    processes = {f"process {process.pid} {process.name()}" for process in psutil.process_iter() if _is_ours(process)}
    left = {str(path) for path in (*scratch.iterdir(), *Path("/dev/shm").glob("*rlvla3*"))}
    return processes | (left - {str(scratch / f"torchinductor_{getpass.getuser()}")})  # torch makes it, whether it compiles anything or not


def _is_ours(process: psutil.Process) -> bool:
    try:
        return process.environ().get(MARK) == str(os.getpid())
    except psutil.Error:  # ended by now, or somebody else's
        return False
