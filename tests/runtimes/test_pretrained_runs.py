"""Whole runs of tiny pretrained families with real processes and simulators: PPO and GRPO, cloning first, adapters, resume, a base that has been moved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvla3.config import PolicyConfig
from rlvla3.policies.registry import make_policy, read_checkpoint_config
from tests.support.libero import installed
from tests.support.runs import Run
from tests.support.thorough import thorough
from tests.support.vla import FAMILIES

pytestmark = [pytest.mark.usefixtures("no_run_outlives_its_test"), pytest.mark.slow]
METAWORLD = {"name": "metaworld", "tasks": ["reach-v3"], "shards": 2, "max_steps": 20, "options": {"reward": "dense"}}
GRPO = {"advantage": "grpo", "group_size": 2}


def recipe(family: str, simulator: dict[str, Any] = METAWORLD, **sections: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "simulator": simulator,
        "policy": {"name": family, "size": "tiny", "chunk": 5},
        "training": {"updates": 2, "batch": 4, "epochs": 2, "micro_batch": 8, "critic": {"warmup": 1, "epochs": 1}},
        "evaluation": {"episodes": 2, "before": False, "after": False},
    }
    for section, settings in sections.items():
        given[section] = given.get(section, {}) | settings
    return given


def trained(run: Run, updates: int = 2) -> bool:
    """Whether every ticket was trained on, and the weights have moved."""
    records = run.records("update")
    assert run.summary["tickets"]["trained"] == 4 * updates and len(records) == updates
    return any(record["learner"].get("gradient_norm", 0) > 0 for record in records)


@pytest.mark.parametrize("family", FAMILIES)
def test_ppo_in_full_async(tmp_path: Path, family: str, nothing_left: None) -> None:
    assert trained(Run(tmp_path, recipe(family)).finished())


@pytest.mark.parametrize("family", ["pi05", "openvla_oft", *thorough("pi0", "smolvla", "groot")])
def test_cloned_then_grpo_with_adapters(tmp_path: Path, family: str, nothing_left: None) -> None:
    """Cloning computes the statistics in the trainer, and generators act with them: they are in the policy that is kept."""
    options: dict[str, Any] = {"lora": {"rank": 2, "parts": ["language", "expert"]}, "train": ["expert"]}
    changes: dict[str, Any] = {"policy": {"options": options}, "clone": {"demonstrations": 2, "steps": 2, "batch": 4}, "algorithm": GRPO}
    run = Run(tmp_path, recipe(family, METAWORLD | {"max_steps": 100}, **changes, training={"steps": 2})).finished()
    assert trained(run)
    folder = run.folder / "checkpoints" / "000002" / "policy"
    saved = read_checkpoint_config(folder)
    assert "demonstrations" in saved.options["processing"]["actions"]["normalisation"]["source"]
    policy: Any = make_policy(saved.config(folder), saved.spaces)
    scale, numbers = policy.processor.actions.scale, saved.options["processing"]["actions"]["normalisation"]
    assert torch.allclose(scale.second, torch.tensor(numbers["std"] or numbers["high"], dtype=scale.second.dtype))


@installed
@pytest.mark.parametrize("family", ["pi05", *thorough("groot")])
def test_in_libero(tmp_path: Path, family: str, nothing_left: None) -> None:
    libero = {"name": "libero", "tasks": ["libero_goal/8"], "shards": 2, "max_steps": 15, "options": {"warmup_steps": 1}}
    run = Run(tmp_path, recipe(family, libero)).finished()
    saved = read_checkpoint_config(run.folder / "checkpoints" / "000002" / "policy")
    assert saved.options["preset"] == "libero" and saved.options["processing"]["images"]["turn"] == "mirrored"


@pytest.mark.parametrize("family", ["openvla_oft", *thorough("pi0")])
def test_resume_gives_the_weights_of_a_run_that_was_never_stopped(tmp_path: Path, family: str) -> None:
    sync: dict[str, Any] = {"engine": {"mode": "sync"}, "training": {"updates": 2, "deterministic": True}}
    whole = Run(tmp_path / "whole", recipe(family, **sync)).finished()
    half = Run(tmp_path / "half", recipe(family, **sync), None, "training.updates=1").finished()
    assert half.weights(1) != whole.weights(2)
    assert Run(tmp_path, None, half.folder, "training.updates=2").finished().weights(2) == whole.weights(2)


def test_a_run_outlives_the_folder_that_it_started_from(tmp_path: Path) -> None:
    """The base is moved after the first update: the run resumes from its own checkpoint, frozen weights included."""
    base = Run(tmp_path / "base", recipe("pi0", training={"updates": 1})).finished().folder / "checkpoints" / "000001" / "policy"
    moved = shutil.copytree(base, tmp_path / "policy")
    given = recipe("pi0", policy={"checkpoint": str(moved)}, training={"updates": 1})
    run = Run(tmp_path / "run", given).finished()
    shutil.rmtree(moved)
    Run(tmp_path, None, run.folder, "training.updates=2").finished()
    assert len(run.records("update")) == 2
    kept = run.folder / "checkpoints" / "000002" / "policy"
    again: Any = make_policy(PolicyConfig(name="pi0", chunk=5, checkpoint=kept), read_checkpoint_config(kept).spaces)  # without policy.size
    assert sum(parameter.numel() for parameter in again.network.parameters()) < 3e6
