"""Whole runs in which every decision has its own instruction. The policy refuses every other one: when it acts, learns, is cloned, evaluated and replayed."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvla3.cli import main
from rlvla3.config import SimulatorConfig
from rlvla3.policies.base import Observations, PolicyError
from tests.support.listening_policy import Listening
from tests.support.runs import Run
from tests.support.told import Talking

pytestmark = [pytest.mark.usefixtures("no_run_outlives_its_test"), pytest.mark.slow]


def talking(**changes: Any) -> dict[str, Any]:
    recipe: dict[str, Any] = {
        "simulator": {"name": "tests.support.told:Talking", "tasks": ["near", "far"], "shards": 2, "slots": 2},
        "policy": {"name": "tests.support.listening_policy:Listening", "chunk": 5},
        "clone": {"demonstrations": 2, "steps": 3},
        "engine": {"mode": "full_async", "max_batch": 3, "generators": 2},
        "training": {"updates": 2, "batch": 8, "steps": 2, "epochs": 2, "micro_batch": 5},
        "evaluation": {"episodes": 4, "videos": 0},
    }
    for section, settings in changes.items():
        recipe[section] = recipe.get(section, {}) | settings if isinstance(settings, dict) else settings
    return recipe


def test_a_run_and_its_replay_read_the_instruction_of_each_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, talking()).finished()
    assert run.summary["tickets"]["trained"] == 16
    assert run.summary["success_after"]["episodes"] == 4
    assert main(["replay", str(run.folder)]) == 0
    assert "bit for bit" in capsys.readouterr().out


def test_so_does_a_mix_of_simulators(tmp_path: Path) -> None:
    recipe = talking(engine={"share": "lanes", "generators": 1})
    simulator = recipe.pop("simulator") | {"shards": 1}
    recipe["simulators"] = {task: simulator | {"tasks": [task]} for task in ("near", "far")}
    assert Run(tmp_path, recipe).finished().summary["tickets"]["trained"] == 16


@pytest.mark.thorough
def test_so_do_the_ranks_of_a_trainer(tmp_path: Path) -> None:
    recipe = talking(training={"ranks": 2}, evaluation={"before": False, "after": False})
    del recipe["clone"]
    assert Run(tmp_path, recipe).finished().summary["tickets"]["trained"] == 16


@pytest.mark.thorough
def test_so_does_a_run_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlvla3[ray]'")
    recipe = talking(runtime="ray", engine={"generators": 1}, evaluation={"before": False, "after": False})
    del recipe["clone"]
    assert Run(tmp_path, recipe).finished().summary["tickets"]["trained"] == 16


@pytest.mark.parametrize(("told", "refused"), [("you are at 0.25000", False), ("you are at 0.50000", True)])
def test_the_policy_refuses_the_instruction_of_another_decision(told: str, refused: bool) -> None:
    policy = Listening(Talking.describe(SimulatorConfig(name="talking")), 5, Listening.Options())
    seen = Observations({"front": torch.zeros(1, 32, 32, 3, dtype=torch.uint8)}, torch.tensor([[0.25, 1.0]]), torch.zeros(1), [told])
    with pytest.raises(PolicyError) if refused else nullcontext():
        policy.act(policy.tokenise(seen), torch.zeros(1, 5, 1), torch.ones(1, dtype=torch.bool))
