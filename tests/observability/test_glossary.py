"""The glossary of metrics says what runs report: all of it, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rlvla3.cli import main
from rlvla3.observability.batching import FIGURES
from rlvla3.observability.curves import points
from rlvla3.observability.evaluated_states import EvaluatedStates, TaskStates
from rlvla3.observability.event_json import event_json
from rlvla3.observability.events import CloneStep, EvaluationFinished, Event, Notice, PhaseStarted
from rlvla3.observability.glossary import METRICS, of_curve, of_line
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.machine_use import GpuUse, MachineUse
from rlvla3.observability.meter import BUSY, IDLE
from rlvla3.observability.run_directory import RunDirectory
from tests.support.events import episodes
from tests.support.repository import ROOT
from tests.support.runs import Run, countdown

ALGORITHMS: dict[str, dict[str, Any]] = {
    "gae": {
        "algorithm": {"entropy": 0.01, "reference": {"weight": 0.01}},
        "evaluation": {"every": 2, "before": True, "after": True},
        "engine": {"mode": "full_async"},
    },
    "grpo": {"algorithm": {"advantage": "grpo", "group_size": 4, "filter_groups": True}, "engine": {"mode": "sync"}, "training": {"ranks": 2, "steps": 1}},
    "rloo": {"algorithm": {"advantage": "rloo", "group_size": 2, "correction": "truncated"}, "engine": {"mode": "train_async"}},
}
"""Settings of real runs that have all metrics of learning together."""

SELDOM = ("update.workers.busy", "update.workers.idle", "update.batching", "idle/", "batching/", "machine.")
"""Stages, causes and figures that need many hosts, a GPU or a slow machine: their lists in the code are compared instead."""


def places(line: Any, at: str) -> Iterator[str]:
    """The place of each number and text in a line of metrics.jsonl, as the glossary names it."""
    if isinstance(line, dict):
        for key, value in line.items():
            yield from places(value, f"{at}.{key}")
    elif isinstance(line, list):
        for value in line:
            yield from places(value, at)
    else:
        yield at


def told(line: dict[str, Any]) -> set[str]:
    """The names of the entries for all that a line tells, in metrics.jsonl and as curves. An assertion fails where there is none."""
    found = {place: of_line(place) for place in places(line, line["event"])}
    if (point := points(line)) is not None:
        found |= {curve: of_curve(curve) for curve in point.values}
    assert [name for name, metric in found.items() if metric is None] == [], "the glossary (rlvla3/observability/glossary/) does not know these"
    return {metric.name for metric in found.values() if metric is not None}


def of_events() -> set[str]:
    """What events tell that need a simulator with experts, or with a fixed set of initial states."""
    tasks = success_rate([*episodes(3, 4, task="open"), *episodes(1, 4, task="close the drawer. Now")])
    states = EvaluatedStates({"open": TaskStates(50, {3: 1, 7: 1}, (3, 7), (3,))}, complete=True)
    evaluated = EvaluationFinished("during", 5, tasks, states, protocol="openvla", best=True, planned=50, set_aside=1)
    some: list[Event] = [CloneStep(1, 50, 0.3), Notice("a simulator was lost"), PhaseStarted("train", 3), evaluated]
    return {name for event in some if (line := event_json(event)) for name in told(line)}


def test_each_name_stands_once():
    for names in ([metric.line for metric in METRICS], [metric.curve for metric in METRICS]):
        assert [name for name, count in Counter(names).items() if name and count > 1] == []
    assert all(metric.name and metric.meaning for metric in METRICS)
    assert all(metric.unit for metric in METRICS if metric.curve), "a curve has a unit"


def test_a_name_finds_its_own_entry():
    for metric in METRICS:
        if metric.curve and "{" not in metric.curve:
            assert of_curve(metric.curve) is metric
        if metric.line and "{" not in metric.line:
            assert of_line(metric.line) is metric
    kl = of_curve("learner/approx_kl")
    assert kl is not None and kl is of_line("update.learner.approx_kl") and kl.unit == "nats"
    assert of_line("evaluation.per_task.close the drawer. Now.low") is of_line("evaluation.low")
    assert of_line("update.learner.nobody") is None and of_curve("nobody") is None


def test_stages_causes_and_figures_are_those_of_the_engine():
    entries = {metric.line for metric in METRICS}
    for at, names in {"update.workers.busy": BUSY, "update.workers.idle": IDLE, "update.batching": FIGURES}.items():
        assert {line for line in entries if line.startswith(f"{at}.")} == {f"{at}.{name}" for name in names}


def test_the_page_is_up_to_date():
    made = subprocess.run([sys.executable, "scripts/metrics_reference.py"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert made == (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"), "docs/metrics.md is out of date: run `make metrics`"
    assert all(len(line) <= 120 for line in made.splitlines())


def test_the_command_prints_entries_by_a_part_of_their_names(capsys: pytest.CaptureFixture[str]):
    assert main(["metrics", "KL"]) == 0
    printed = capsys.readouterr().out
    assert "learner/approx_kl (nats)" in printed and "mean((r - 1) - log r)" in printed and "throughput" not in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert main(["metrics"]) == 0
    everything = capsys.readouterr().out
    assert all(f"\n{metric.name}" in everything for metric in METRICS)
    assert main(["metrics", "nobody"]) == 2
    assert capsys.readouterr().err == "rlvla3: no metric has 'nobody' in its name: `rlvla3 metrics` prints all of them\n"


def test_what_is_written_of_the_machine_is_in_the_glossary_and_nothing_else():
    use = MachineUse(seconds=1, cores=2, cores_used=1.5, memory=8, memory_left=4, gpus=[GpuUse(name="H200", memory=8, memory_used=4, busy=0.5)])
    assert set(places(use.model_dump(), "machine")) == {metric.line for metric in METRICS if metric.line.startswith("machine.")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the run of an algorithm, made when it is first asked for."""
    return cache(lambda name: Run(tmp_path_factory.mktemp(name), countdown(**ALGORITHMS[name])).finished().folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_a_run_reports_is_in_the_glossary(runs: Callable[[str], Path], name: str):
    """metrics.jsonl, and the files of TensorBoard."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    lines = RunDirectory(runs(name)).metric_lines()
    assert {entry for line in lines for entry in told(line)} > {"rollouts/success", "busy/{kind}"}
    curves = accumulator.EventAccumulator(str(runs(name)))
    curves.Reload()
    assert set(curves.Tags()["scalars"]) == {curve for line in lines if (point := points(line)) for curve in point.values}


@pytest.mark.slow
def test_what_is_in_the_glossary_is_reported(runs: Callable[[str], Path]):
    seen = of_events() | {entry for name in ALGORITHMS for line in RunDirectory(runs(name)).metric_lines() for entry in told(line)}
    never = [metric.name for metric in METRICS if metric.name not in seen and not metric.name.startswith(SELDOM)]
    assert never == [], "no run reports these"
