"""Reads and writes the config.json of a policy's folder, without torch. The weights are in model.safetensors beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from rlvla3.config import PolicyConfig
from rlvla3.errors import RecipeError
from rlvla3.metadata import Count, Metadata, checked, read_json
from rlvla3.types import ActionSpace, Spaces

MOVED = ("gradient_checkpointing",)
"""Options of earlier releases that are settings of training now. Policies that were saved then still name them."""


Size = Annotated[int, Field(ge=1, le=1_000_000)]
"""Of a policy's input or output. Larger ones are damage."""


class _DescribedAction(Metadata):
    kind: Literal["continuous", "discrete"]
    size: Size
    choices: Count = 0
    low: float = -1.0
    high: float = 1.0


class _DescribedSpaces(Metadata):
    cameras: dict[str, Annotated[list[Size], Field(min_length=3, max_length=3)]]
    state: Annotated[int, Field(ge=0, le=1_000_000)]
    max_steps: Annotated[int, Field(ge=1, le=2**53)]
    action: _DescribedAction

    def spaces(self) -> Spaces:
        cameras = {camera: (height, width, channels) for camera, (height, width, channels) in self.cameras.items()}
        return Spaces(cameras, self.state, ActionSpace(**self.action.model_dump()), self.max_steps)


class _Described(Metadata):
    """config.json."""

    policy: str
    chunk: Size
    spaces: _DescribedSpaces
    options: dict[str, Any]


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
    """The content of the config.json in `folder`. Raises RecipeError where the file is missing, or where it does not describe a policy."""
    path = folder / "config.json"
    if not path.is_file():
        raise RecipeError(f"no policy at {folder}: give a folder with config.json and model.safetensors, for example runs/demo/checkpoints/000060/policy")
    way_out = "It must describe an rlvla3 policy: copy it again"
    described = checked(_Described, read_json(path, way_out), str(path), way_out)
    options = {name: value for name, value in described.options.items() if name not in MOVED}
    return SavedPolicy(described.policy, described.chunk, described.spaces.spaces(), options)


def _describe(spaces: Spaces) -> dict[str, Any]:
    action = spaces.action
    return {
        "cameras": {camera: list(shape) for camera, shape in spaces.cameras.items()},
        "state": spaces.state,
        "max_steps": spaces.max_steps,
        "action": {"kind": action.kind, "size": action.size, "choices": action.choices, "low": action.low, "high": action.high},
    }
