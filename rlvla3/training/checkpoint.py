"""A run on disk, between two updates: policy/ (config.json, model.safetensors) for whoever uses the policy, trainer.pt for whoever goes on training it.

The caller makes the folder appear whole or not at all; here it is only filled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlvla3.policies.base import Policy, PolicyError
from rlvla3.training.learner import Learner
from rlvla3.types import Version

FORMAT = 2
"""Of trainer.pt. Raise it when an older file can no longer be read."""

POLICY, TRAINER = "policy", "trainer.pt"


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed from: which file, what is wrong with it, and the way out."""


def save_checkpoint(folder: Path, policy: Policy, policy_name: str, learner: Learner, version: Version) -> None:
    """Write a checkpoint into `folder`. policy_name: how a recipe names this kind of policy. version: the updates done."""
    policy.save(folder / POLICY, policy_name)
    torch.save({"format": FORMAT, "version": version, "learner": learner.state_dict()}, folder / TRAINER)


def load_checkpoint(folder: Path, policy: Policy, learner: Learner) -> Version:
    """Put `policy` and `learner` where `folder` left them; returns the version they are at. Raises CheckpointError, also for damaged and foreign files."""
    path = folder / TRAINER
    saved = _read(path)
    if saved["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {saved['format']}, this release reads {FORMAT}: resume with the release that wrote it, {_way_out(folder)}")
    try:
        policy.restore(folder / POLICY)
    except PolicyError as error:
        raise CheckpointError(str(error)) from error
    try:
        learner.load_state_dict(saved["learner"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit this policy's learner ({error}): resume with the recipe of the run, {_way_out(folder)}") from error
    version: Version = saved["version"]
    return version


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"no {TRAINER} in {path.parent}, so training cannot be resumed from there: give the folder of a whole checkpoint")
    try:
        # weights_only: a checkpoint may come from anywhere, and a full unpickling runs whatever code it holds.
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes happen to mean: zip, pickle, end of file
        raise CheckpointError(f"cannot read {path}, it is damaged or not a checkpoint: resume from an earlier one, {_way_out(path.parent)}") from error
    if not isinstance(saved, dict) or not {"format", "version", "learner"} <= saved.keys():
        raise CheckpointError(f"{path} was not written by rlvla3: resume from an earlier checkpoint, {_way_out(path.parent)}")
    return saved


def _way_out(folder: Path) -> str:
    return f"or start a new run from the weights alone with policy.checkpoint={folder / POLICY}"
