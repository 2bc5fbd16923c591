"""What was read of a checkpoint, whatever its layout. Nothing here imports torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from rlvla3.checkpoints.weight_files import StoredTensor, WeightFiles, read_json
from rlvla3.checkpoints.weight_names import WeightNames
from rlvla3.errors import RecipeError
from rlvla3.metadata import Count, Metadata, PathWithin, checked

Layout = Literal["lerobot", "openpi", "openvla", "groot"]
"""Whose code wrote it and reads it."""

Family = Literal["pi0", "pi05", "smolvla", "openvla_oft", "groot"]

LARGEST_CARRIED = 2**30
"""Bytes of a file beside the weights. They are configurations, statistics and tokenizers, and are kept in memory while a policy trains."""

KEPT, KEPT_TENSORS = "checkpoint.json", "unused.safetensors"
"""Where `Checkpoint.keep` says what the folder holds, and where it copies weights."""


class _KeptTensor(Metadata):
    file: PathWithin
    name: str
    shape: list[Count]
    dtype: str
    kept: bool


class _KeptNames(Metadata):
    renames: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
    tied: dict[str, str]
    unused: list[str]
    optional: list[str]


class _Kept(Metadata):
    """checkpoint.json, as `Checkpoint.keep` writes it."""

    layout: Layout
    family: Family
    options: dict[str, Any]
    weights: dict[str, _KeptTensor]
    names: _KeptNames
    carried: list[PathWithin]
    notes: list[str]
    executed: Annotated[int, Field(ge=1)] | None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that people have.

    options: the options of the family's policy that the checkpoint says, as a plain tree: model, processing, flow, ...
    weights: its tensors. names: how their names correspond to the network's. carried: files that go along when it is written again, with paths within `folder`.
    notes: sentences for the user, about what the checkpoint does not say and what was assumed. executed: how many actions of a chunk its authors execute.
    """

    folder: Path
    layout: Layout
    family: Family
    options: Mapping[str, Any]
    weights: WeightFiles
    names: WeightNames = field(default_factory=WeightNames)
    carried: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    executed: int | None = None

    @property
    def unused(self) -> list[str]:
        """The tensors that the network has no use for, and that are written back as they came."""
        return [name for name in self.weights if self.names.unused and name.startswith(self.names.unused)]

    def keep(self, folder: Path, tensors: Sequence[str] = ()) -> None:
        """Copy all but the weights into `folder`, so that the checkpoint can be written again after its own folder is gone. `kept_checkpoint` reads it.

        tensors: weights that are copied as well, because no network has them (`unused`). Raises RecipeError for a file that is too large to be carried.
        """
        for name in self.carried:
            if (size := (path := self.folder / name).stat().st_size) > LARGEST_CARRIED:
                raise RecipeError(f"{path} has {size} bytes, and files beside the weights have {LARGEST_CARRIED} at most: take it out of the folder")
            (folder / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name, folder / "files" / name)
        folder.mkdir(parents=True, exist_ok=True)
        if tensors:
            from safetensors.torch import save_file

            save_file({name: self.weights.tensor(name) for name in tensors}, folder / KEPT_TENSORS)
        weights = {
            name: {"file": stored.file.name, "name": stored.name, "shape": stored.shape, "dtype": stored.dtype, "kept": name in tensors}
            for name, stored in self.weights.items()
        }
        names = ("layout", "family", "options", "carried", "notes", "executed")
        write_json(folder / KEPT, {**{name: getattr(self, name) for name in names}, "names": asdict(self.names), "weights": weights})


def kept_checkpoint(folder: Path) -> Checkpoint:
    """What `Checkpoint.keep` wrote into `folder`. Its weights have names, shapes and formats, and cannot be read. Raises RecipeError."""
    place = folder / KEPT
    described = checked(_Kept, read_json(place), str(place), "It is written by rlvla3 beside a policy: copy it again")
    files = folder / "files"
    weights = {
        name: StoredTensor(files / entry.file, entry.name, tuple(entry.shape), entry.dtype, (folder / KEPT_TENSORS, name) if entry.kept else None)
        for name, entry in described.weights.items()
    }
    if lost := [name for name in described.carried if not (files / name).is_file()]:
        raise RecipeError(f"{files / lost[0]} is missing, and {place} names it. It is written by rlvla3 beside a policy: copy it again")
    names = WeightNames.of(described.names.model_dump())
    carried, notes = tuple(described.carried), tuple(described.notes)
    return Checkpoint(files, described.layout, described.family, described.options, WeightFiles(weights), names, carried, notes, described.executed)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def files_in(folder: Path) -> tuple[str, ...]:
    """The paths of all files in `folder`, within it."""
    return tuple(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
