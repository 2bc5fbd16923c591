"""The packages of trackers themselves, offline: what they keep of a run, and of a run that goes on."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rlvla3.config import make_recipe
from rlvla3.observability.curves import points
from rlvla3.observability.events import CloneStep, EvaluationFinished
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.trackers.sending import TrackerProcess
from tests.support.events import episodes, update
from tests.support.repository import ROOT
from tests.support.runs import Run, countdown

PYTHON = ROOT / ".venv/trackers/bin/python"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.skipif(not PYTHON.exists(), reason="`make test` makes an environment with the trackers")]

Point = tuple[int, str, float]
"""(step, curve, value)."""

TASK = "close the drawer, d'accord?"


@pytest.fixture(autouse=True)
def a_home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No login and no settings of whoever runs the tests, and no network."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_", "MLFLOW_", "SWANLAB_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def of_wandb(folder: Path) -> tuple[int, list[Point]]:
    """The number of runs, and the points."""
    read = subprocess.run([str(PYTHON), str(ROOT / "tests/support/wandb_file.py"), str(folder)], capture_output=True, text=True, check=True)
    lines = list(map(json.loads, read.stdout.splitlines()))
    found = [line["values"] for line in lines if "values" in line]
    axes = ["clone/step" if "clone/step" in values else "update" for values in found]
    return len({line["run"][0] for line in lines if "run" in line}), [
        (values[axis], name, value) for values, axis in zip(found, axes, strict=True) for name, value in values.items() if name not in ("update", "clone/step")
    ]


def of_trackio(folder: Path) -> tuple[int, list[Point]]:
    with closing(sqlite3.connect(folder / "trackers/trackio/arm.db")) as database:
        rows = database.execute("SELECT run_id, step, metrics FROM metrics ORDER BY id").fetchall()
    found = [(step, name, value) for _, step, values in rows for name, value in json.loads(values).items() if name not in ("update", "clone/step")]
    return len({run for run, _, _ in rows}), found


def of_mlflow(folder: Path) -> tuple[int, list[Point]]:
    with closing(sqlite3.connect(folder / "trackers/mlflow.db")) as database:
        rows = database.execute("SELECT run_uuid, step, key, value FROM metrics").fetchall()
        (updates,) = database.execute("SELECT value FROM params WHERE key = 'training.updates'").fetchone()
    assert updates == "20"
    return len({row[0] for row in rows}), [row[1:] for row in rows]


READERS: dict[str, Callable[[Path], tuple[int, list[Point]]]] = {"wandb": of_wandb, "trackio": of_trackio, "mlflow": of_mlflow}


def send(name: str, run: RunDirectory, numbers: range) -> list[str]:
    """Send updates, and evaluations of two tasks, as one part of a run. Returns the notices."""
    recipe = make_recipe({"training": {"updates": 20}, "trackers": {"names": name, "project": "arm", "offline": True, "python": str(PYTHON)}})
    notices: list[str] = []
    watcher = TrackerProcess(name, recipe, run, notices.append)
    if numbers.start == 1:
        watcher.on(CloneStep(50, 50, 0.25))
    for number in numbers:
        watcher.on(update(number))
        watcher.on(EvaluationFinished("during", number, success_rate([*episodes(3, 4), *episodes(1, 4, task=TASK)])))
    watcher.close()
    return notices


@pytest.mark.parametrize("name", READERS)
def test_a_tracker_keeps_every_point_once_and_continues_its_run(run: RunDirectory, name: str):
    assert send(name, run, range(1, 3)) == []
    assert send(name, run, range(2, 4)) == []
    runs, found = READERS[name](run.path)
    assert runs == 1
    assert (50, "clone/loss", 0.25) in found
    assert sorted(point for point in found if point[1] == "rollouts/success") == [(number, "rollouts/success", 0.625) for number in (1, 2, 3)]
    task = f"evaluation/{TASK}" if name != "mlflow" else "evaluation/close the drawer_ d_accord_"
    assert sorted(point for point in found if point[1] == task) == [(number, task, 0.25) for number in (1, 2, 3)]


def test_swanlab_keeps_every_part_of_a_run_under_one_id(run: RunDirectory):
    """Its files can be read by its own cloud alone."""
    assert send("swanlab", run, range(1, 3)) == []
    assert send("swanlab", run, range(3, 4)) == []
    kept = json.loads((run.path / "trackers/swanlab.json").read_text())
    first, second = sorted((run.path / "trackers/swanlab").glob("run-*"))
    assert first.name.endswith(kept["id"]) and second.name.endswith(kept["id"])
    assert all(next(part.glob("*.swanlab")).stat().st_size > 1000 for part in (first, second))
    assert kept["sent"] == {"clone": 50, "update": 3, "evaluation": 3}


def test_weights_and_biases_without_a_login_keeps_the_run_offline_and_says_so(tmp_path: Path):
    """A whole run, which goes on later. What is in metrics.jsonl is there too, under the names of TensorBoard."""
    settings: dict[str, Any] = {"names": "wandb", "project": "arm", "python": str(PYTHON)}
    run = Run(tmp_path / "first", countdown(training={"updates": 2}, trackers=settings))
    printed = " ".join(ended(run).split())
    assert printed.count("wandb: it cannot be reached") == 1 and "No API key configured" in printed and "`wandb sync --append" in printed
    ended(Run(tmp_path / "then", None, run.folder, "training.updates=3"))
    runs, found = of_wandb(run.folder)
    expected = [(told.step, name) for line in RunDirectory(run.folder).metric_lines() if (told := points(line)) for name in told.values]
    assert runs == 1 and [step for step, name, _ in found if name == "rollouts/success"] == [1, 2, 3]
    assert sorted((step, name) for step, name, _ in found) == sorted(expected)


def ended(run: Run) -> str:
    """What the run has printed when it has ended. A tracker may take two minutes for that on a busy machine."""
    printed, _ = run.process.communicate(timeout=500)
    assert run.process.returncode == 0, printed
    return printed
