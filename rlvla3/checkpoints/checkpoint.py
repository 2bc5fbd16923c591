"""Reads checkpoints that people have, whatever their layout. Nothing here imports torch."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlvla3.checkpoints.contents import Checkpoint, Family, Layout, kept_checkpoint
from rlvla3.checkpoints.weight_files import read_json
from rlvla3.config import path_of
from rlvla3.errors import RecipeError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Checkpoint", "Family", "Layout", "find_checkpoint", "kept_checkpoint", "read_checkpoint", "write_checkpoint"]

LAYOUTS: tuple[Layout, ...] = ("lerobot", "openvla", "groot", "openpi")
"""Each is a module of this package with `is_layout` and `read`. The first that recognises a folder reads it."""


class LayoutModule(Protocol):
    """What a module of a layout has."""

    def is_layout(self, folder: Path, config: Mapping[str, Any]) -> bool:
        """Whether `folder` has this layout. config: its config.json, or nothing if it has none."""

    def read(self, folder: Path, config: Mapping[str, Any], statistics: str | None) -> Checkpoint:
        """Read it. statistics: which, if it has several. Raises RecipeError."""


def find_checkpoint(text: str) -> Path:
    """The folder of a checkpoint: a local one, or one from the hub by its name `organisation/name`. Raises RecipeError."""
    folder = path_of(text)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise RecipeError(f"the checkpoint {text} is a file: give the folder that holds it")
    if text.count("/") != 1 or text.startswith((".", "~", "/")) or Path(text).parent.is_dir():
        raise RecipeError(f"there is no checkpoint at {text}: give a folder, or the name of a repository on the hub, such as lerobot/pi0_base")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(text))
    except ImportError as error:
        raise RecipeError(f"{text} is no folder here, and the hub needs the package huggingface_hub: pip install 'rlvla3[vla]', or give a folder") from error
    except Exception as error:  # the hub's errors: offline, not found, gated; each of a type of its own
        raise RecipeError(
            f"{text} is no folder here, and cannot be had from the hub ({type(error).__name__}): it may be offline, or the repository may need a login. "
            f"Download it elsewhere and give the folder: a local folder is accepted"
        ) from error


def read_checkpoint(folder: Path, *, statistics: str | None = None) -> Checkpoint:
    """What a checkpoint says: its layout, its family, options and weight files. Only JSON and headers are read.

    statistics: which, where a checkpoint has several: openpi's asset id, OpenVLA's data set, GR00T's embodiment. Raises RecipeError, naming file and key.
    """
    for inner in ("checkpoints/last", "pretrained_model"):  # a run of lerobot's, or one of its checkpoints
        folder = folder / inner if (folder / inner).is_dir() else folder
    if not folder.is_dir():
        raise RecipeError(f"there is no checkpoint at {folder}: give a folder")
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    for name in LAYOUTS:
        if importlib.util.find_spec(f"rlvla3.checkpoints.{name}") is None:
            continue
        layout: LayoutModule = importlib.import_module(f"rlvla3.checkpoints.{name}")
        if layout.is_layout(folder, config):
            return layout.read(folder, config, statistics)
    raise RecipeError(
        f"{folder} has none of the layouts {', '.join(LAYOUTS)}: lerobot's config.json has a `type`, openpi's folder has params/ or a model.safetensors with "
        f"paligemma_with_expert, OpenVLA's and GR00T's config.json have a model_type"
    )


def write_checkpoint(folder: Path, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None) -> list[str]:
    """Write `tensors`, by the network's names, into `folder` in the layout of `checkpoint`, with everything that it carries beside them.

    Returns sentences about casts. Raises RecipeError.
    """
    from rlvla3.checkpoints.weights import write_weights

    stated = write_weights(folder, checkpoint, tensors, dtype=dtype)
    for name in checkpoint.carried:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint.folder / name, folder / name)
    return stated
