"""The overhead benchmark: that it compares like with like, and that a simulator which costs too much is seen."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import pytest

from rlvla3.benchmarks import overhead, own_interpreter
from rlvla3.benchmarks.overhead import Bare, Case, EpisodeCost, compare
from rlvla3.cli import main
from rlvla3.simulators.gymnasium import GymnasiumSimulator


def bare_counting(simulator: GymnasiumSimulator) -> Bare:
    environment = simulator.environment
    return Bare(lambda seed: environment.reset(seed=seed), lambda action: environment.step(int(action[0])), lambda: None)


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Every call of the environment, by its kind."""
    from rlvla3.simulators import slow_image

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    calls: dict[str, list[Any]] = {"reset": [], "step": []}
    for kind in calls:
        monkeypatch.setattr(slow_image.SlowImageEnv, kind, _noting(getattr(slow_image.SlowImageEnv, kind), calls[kind]))
    return calls


def _noting(function, calls):
    def noted(self, *arguments, **settings):
        calls.append((*arguments, settings.get("seed")))
        return function(self, *arguments, **settings)

    return noted


def test_either_side_resets_to_the_same_seeds_and_takes_the_same_actions(monkeypatch):
    calls = counted(monkeypatch)
    monkeypatch.setitem(overhead.CASES, "counted", Case("slow_image", {}, bare_counting))
    figures = overhead.measure("counted", episodes=6)
    resets = [seed for (seed,) in calls["reset"]]
    assert resets == [seed for seed in range(7) for _ in range(2)]
    steps = np.array([action for action, _ in calls["step"]]).reshape(7, 2, overhead.DECISIONS * overhead.CHUNK)
    assert (steps[:, 0] == steps[:, 1]).all() and len(np.unique(steps)) > 2
    assert figures["episodes"] == 6, "the first one warms up"


def test_a_simulator_that_costs_more_is_seen(monkeypatch):
    calls = counted(monkeypatch)
    waits = []
    real = GymnasiumSimulator.observe

    def dearer(self):
        waits.append(end := time.process_time() + 0.002)
        while time.process_time() < end:
            pass
        return real(self)

    monkeypatch.setattr(GymnasiumSimulator, "observe", dearer)
    monkeypatch.setitem(overhead.CASES, "counted", Case("slow_image", {}, bare_counting))
    ratio = overhead.measure("counted", episodes=6)["ratio"]
    assert ratio["least"] > 2 and len(waits) == 7 * (1 + overhead.DECISIONS) and calls["step"]


def test_the_ratio_is_of_whole_episodes_with_bounds_of_a_sign_test():
    theirs = [EpisodeCost(1.0, 1.0)] * 9
    ours = [EpisodeCost(1.0, 1.0 + 0.1 * number) for number in (4, 0, 8, 2, 6, 1, 7, 3, 5)]
    figures = compare(ours, theirs)
    assert figures["ratio"] == {"median": 1.2, "least": 1.05, "greatest": 1.35}, "one of nine may be left out at either end for 95 %: 2 * (1 + 9) / 512 < 0.05"
    assert figures["reset_ms"] == {"simulator": 1000, "bare": 1000} and figures["decision_ms"]["simulator"] == pytest.approx(140)


@pytest.mark.slow
def test_the_command_measures_what_is_named(tmp_path, capsys):
    assert main(["bench", "overhead", "nosuch", "--json", str(tmp_path / "f.json")]) == 2
    assert "choose among metaworld" in capsys.readouterr().err
    assert main(["bench", "overhead", "gymnasium", "--episodes", "5", "--json", str(tmp_path / "f.json")]) == 2
    assert "give 6 or more" in capsys.readouterr().err
    assert main(["bench", "overhead", "gymnasium", "--episodes", "6", "--json", str(tmp_path / "f.json")]) == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    assert list(figures) == ["gymnasium"] and figures["gymnasium"]["ratio"]["median"] < 2
    assert "ratio" in capsys.readouterr().out


def test_the_ratio_of_two_interpreters_is_of_pairs_that_ran_side_by_side():
    pairs = [{"here": 2.0, "there": 2.0 + 0.1 * number} for number in (4, 0, 8, 2, 6, 1, 7, 3, 5)]
    figures = own_interpreter.compare(pairs)
    assert figures["ratio"] == pytest.approx({"median": 1.2, "least": 1.05, "greatest": 1.35}) and figures["pairs"] == 9
    assert figures["step_ms"] == pytest.approx({"here": 2000, "there": 2400})


@pytest.mark.thorough
@pytest.mark.slow
def test_a_shard_in_another_interpreter_is_measured_against_one_in_this(tmp_path, capsys):
    command = ["bench", "overhead", "--python", sys.executable, "--json", str(tmp_path / "f.json"), "--episodes", "6"]
    assert main(command) == 2
    assert "needs the names of the simulators to measure: choose among metaworld" in capsys.readouterr().err
    assert main([*command[:2], "gymnasium", *command[2:]]) == 0
    figures = json.loads((tmp_path / "f.json").read_text())["gymnasium"]
    assert figures["pairs"] == 6 and all(step > 0 for step in figures["step_ms"].values()) and 0.2 < figures["ratio"]["median"] < 5
    assert "ms in the other; ratio" in capsys.readouterr().out
