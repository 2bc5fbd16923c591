"""The settings of the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from rlvla3.choices import Inference
from rlvla3.config.section import ExpandedPath, Positive, Section
from rlvla3.errors import RecipeError
from rlvla3.metadata import read_json


class PolicyConfig(Section):
    """Which policy is trained."""

    name: str = "mini_vla"
    """`mini_vla`, `actor_critic`; `pi0`, `pi05`, `smolvla`, `openvla_oft`, `groot` for a pretrained policy; or `module:Class` for one of your own."""

    chunk: Positive = 5
    """Actions in one decision. The policy sees a new observation after each chunk."""

    checkpoint: ExpandedPath | None = None
    """A policy folder to start from, or for a pretrained policy its folder or its name on the Hugging Face hub. With `null` the policy starts with new
    weights. `RUN_DIR/checkpoints/best/policy` stands for the checkpoint that is the best one when the recipe is read."""

    size: Literal["published", "tiny"] = "published"
    """The size of a pretrained policy. `tiny` has about a million random weights, and a pretrained `checkpoint` is not read: it is for trying a recipe on
    a laptop."""

    inference: Inference = "auto"
    """How generators act. `graphs` fills each batch up to one of a few sizes, and launches a CUDA graph of that size, which is recorded at the start. That
    takes the time of Python and of launches out of an inference. `eager` acts as the policy is written. `compile` compiles with torch.compile first, and takes
    minutes at the start. `auto` means `graphs` on a GPU, if the policy can be recorded and `engine.offload` is false, and `eager` elsewhere."""

    options: dict[str, Any] = {}
    """The policy's own settings. Each policy has others."""

    @field_validator("checkpoint")
    @classmethod
    def _without_link(cls, folder: Path | None) -> Path | None:
        """`checkpoints/best` is a link that leads elsewhere when its run goes on. All workers of this run, and whoever repeats it, need the same weights."""
        if folder is None or folder.parent.name != "best" or not folder.parent.is_symlink():
            return folder
        return folder.parent.parent / folder.parent.readlink() / folder.name

    @property
    def starts_from(self) -> Path | None:
        """The checkpoint that is read: with `size: tiny` only one that rlvla3 saved."""
        folder = self.checkpoint
        return None if folder is None or (self.size == "tiny" and not is_saved_policy(folder)) else folder

    @property
    def is_pretrained(self) -> bool:
        """Whether the policy starts from a checkpoint that other software made. It may have to learn the task by cloning first."""
        folder = self.starts_from
        if folder is None or is_saved_policy(folder):
            return False
        return folder.is_dir() or (not folder.is_absolute() and len(folder.parts) == 2)  # the name of a repository on the hub


def is_saved_policy(folder: Path) -> bool:
    """Whether `folder` holds a policy that rlvla3 saved. What is not there, or cannot be read, is not one."""
    try:
        described = read_json(folder / "config.json", "")
    except RecipeError:
        return False
    return isinstance(described, dict) and {"policy", "spaces"} <= described.keys()
