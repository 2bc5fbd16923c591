"""Reads and writes the config.json of a policy's folder, without torch. The weights are in model.safetensors beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlvla3.config import PolicyConfig
from rlvla3.errors import RecipeError
from rlvla3.types import ActionSpace, Spaces

MOVED = ("gradient_checkpointing",)
"""Options of earlier releases that are settings of training now. Policies that were saved then still name them."""


class SavedPolicy(NamedTuple):
    """The content of a policy's config.json. It is enough to build the policy again."""

    name: str
    chunk: int
    spaces: Spaces
    options: dict[str, Any]

    def config(self, folder: Path) -> PolicyConfig:
        """The `policy` section of a recipe that starts from this policy in `folder`."""
        return PolicyConfig(name=self.name, chunk=self.chunk, checkpoint=folder, options=self.options)


def write_checkpoint_config(folder: Path, saved: SavedPolicy) -> None:
    """Write `saved` as the config.json of `folder`."""
    described = {"policy": saved.name, "chunk": saved.chunk, "spaces": _describe(saved.spaces), "options": saved.options}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")


def read_checkpoint_config(folder: Path) -> SavedPolicy:
    """The content of the config.json in `folder`. Raises RecipeError where the file is missing or cannot be read."""
    try:
        described = json.loads((folder / "config.json").read_text())
        options = {name: value for name, value in described["options"].items() if name not in MOVED}
        return SavedPolicy(described["policy"], described["chunk"], _spaces(described["spaces"]), options)
    except OSError as error:
        raise RecipeError(
            f"no policy at {folder}: {error}. Give a folder with config.json and model.safetensors, for example runs/demo/checkpoints/000044/policy"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"{folder / 'config.json'} does not describe an rlvla3 policy: {error!r}") from error


def _describe(spaces: Spaces) -> dict[str, Any]:
    action = spaces.action
    return {
        "cameras": {camera: list(shape) for camera, shape in spaces.cameras.items()},
        "state": spaces.state,
        "max_steps": spaces.max_steps,
        "action": {"kind": action.kind, "size": action.size, "choices": action.choices, "low": action.low, "high": action.high},
    }


def _spaces(described: Mapping[str, Any]) -> Spaces:
    cameras: dict[str, tuple[int, int, int]] = {camera: (height, width, channels) for camera, (height, width, channels) in described["cameras"].items()}
    return Spaces(cameras, described["state"], ActionSpace(**described["action"]), described["max_steps"])
