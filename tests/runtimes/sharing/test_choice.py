"""Which way of sharing a GPU is taken, from measurements that are made up, and when nothing is measured."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rlvla3.config import Recipe, make_recipe
from rlvla3.errors import WorkerError
from rlvla3.runtimes.processes.rounds import NoAnswer
from rlvla3.runtimes.sharing import measuring
from rlvla3.runtimes.sharing.choice import Speeds, better, is_open, shared_gpu
from rlvla3.runtimes.sharing.measuring import choose_share, share_in_words
from tests.support.runs import countdown

ALIKE = Speeds(0.002, 50.0)


@pytest.mark.parametrize(
    ("lanes", "processes", "expected"),
    [
        (ALIKE, ALIKE, "processes"),
        (Speeds(0.00199, 50.0), ALIKE, "processes"),  # better by less than such a measurement can tell
        (Speeds(0.001, 50.0), ALIKE, "lanes"),  # inference first, and training loses nothing
        (Speeds(0.001, 40.0), ALIKE, "lanes"),
        (Speeds(0.001, 25.0), ALIKE, "processes"),  # what inference wins, training loses
        (Speeds(0.0005, 1.0), ALIKE, "processes"),  # training starves
        (Speeds(0.004, 60.0), ALIKE, "processes"),  # Python's lock holds inference up
        (ALIKE, Speeds(0.004, 50.0), "lanes"),  # time slices are long
    ],
)
def test_the_way_with_the_greater_product_of_speeds_is_taken(lanes: Speeds, processes: Speeds, expected: str):
    assert better(lanes, processes) == expected


def machine(tmp_path: Path, *files: str) -> Path:
    for file in files:
        (tmp_path / file).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("inference", "training", "shared"),
    [
        ("auto", "auto", "cuda:0"),
        ("cuda", "auto", "cuda:0"),
        ("cuda:1", "cuda:1", "cuda:1"),
        ("cuda:1", "auto", None),
        ("cpu", "auto", None),
        ("cpu", "cpu", None),
    ],
)
def test_a_gpu_is_shared_where_both_settings_come_to_the_same_one(tmp_path: Path, inference: str, training: str, shared: str | None):
    recipe = make_recipe(countdown(engine={"device": inference}, training={"device": training}))
    assert shared_gpu(recipe, machine(tmp_path, "nvidia0", "nvidiactl")) == shared
    assert shared_gpu(recipe, tmp_path / "nothing") is None


def test_a_machine_without_a_gpu_shares_none(tmp_path: Path):
    assert shared_gpu(make_recipe(countdown()), machine(tmp_path, "nvidiactl", "null")) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"engine": {"share": "processes"}}, False),
        ({"engine": {"mode": "sync"}}, False),  # rollout and training alternate
        ({"engine": {"mode": "sync", "offload": True}}, False),
        ({"engine": {"mode": "train_async"}}, True),
        ({"training": {"threads": 2}}, False),
    ],
)
def test_a_way_is_chosen_only_where_both_are_possible_and_it_matters(changes: dict[str, Any], expected: bool):
    assert is_open(make_recipe(countdown(**changes))) is expected


def choose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: Any, gpu: str | None = "cuda:0", **engine: Any) -> tuple[str, list[str]]:
    """The way that is taken and what is said of it. measured: what the measurement gives, or raises."""

    async def measure(recipe: Recipe, logs: Path) -> Any:
        if isinstance(measured, Exception):
            raise measured
        return measured

    said: list[str] = []
    monkeypatch.setattr(measuring, "measure", measure)
    monkeypatch.setattr(measuring, "shared_gpu", lambda _: gpu)
    return asyncio.run(choose_share(make_recipe(countdown(engine=engine)), tmp_path, said.append)), said


def test_what_is_taken_is_said_with_its_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    taken, (said,) = choose(monkeypatch, tmp_path, (Speeds(0.001, 45.0), Speeds(0.0025, 50.0)))
    assert taken == "lanes"
    assert said.startswith("engine.share=auto takes lanes for generator and trainer on cuda:0.")
    assert "1.00 ms for an inference and 45.0 training passes a second with lanes" in said
    assert "2.50 ms for an inference and 50.0 training passes a second with processes, which the GPU serves in turn (no MPS daemon is running)" in said


def test_nothing_is_said_without_a_shared_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    never = AssertionError("it must not measure")
    assert choose(monkeypatch, tmp_path, never, gpu=None) == ("processes", [])
    assert choose(monkeypatch, tmp_path, never, gpu=None, share="lanes") == ("lanes", [])
    assert choose(monkeypatch, tmp_path, never, mode="sync") == ("processes", [])  # rollout and training alternate
    assert choose(monkeypatch, tmp_path, None) == ("processes", [])  # torch cannot use the GPU


def test_who_asks_for_processes_hears_how_the_gpu_serves_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    taken, (said,) = choose(monkeypatch, tmp_path, AssertionError("it must not measure"), share="processes")
    assert (taken, said) == ("processes", "generator and trainer share cuda:0, which serves their processes in turn (no MPS daemon is running)")


@pytest.mark.parametrize(
    ("engine", "way"),
    [({}, "lanes or processes, which is measured at the start."), ({"share": "lanes"}, "lanes."), ({"mode": "sync"}, "processes.")],
)
def test_check_says_what_is_known_before(monkeypatch: pytest.MonkeyPatch, engine: dict[str, Any], way: str):
    monkeypatch.setattr(measuring, "shared_gpu", lambda _: "cuda:0")
    said = share_in_words(make_recipe(countdown(engine=engine)))
    assert said == f"generator and trainer share cuda:0 as {way} The GPU serves several processes in turn (no MPS daemon is running)"


def test_a_measurement_that_fails_is_said_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    taken, (said,) = choose(monkeypatch, tmp_path, NoAnswer("a stand-in failed with OutOfMemoryError: 2 GiB\nthe last line that it printed"))
    assert taken == "processes" and "lanes could not be measured: a stand-in failed with OutOfMemoryError: 2 GiB" in said


def test_what_the_run_would_be_refused_for_is_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(WorkerError, match="this machine has 1 CUDA devices"):
        choose(monkeypatch, tmp_path, WorkerError("engine.device=cuda:9, and this machine has 1 CUDA devices: write auto or cpu"))
