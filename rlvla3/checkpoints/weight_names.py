"""Weights between a checkpoint's names and a network's: loaded strictly, and written back in the layout that came in.

Invariant: nothing is skipped, filled in or cast without a word. Every key that is missing, unexpected or of another shape is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rlvla3.checkpoints.contents import Checkpoint, write_json
from rlvla3.checkpoints.weight_files import WeightFiles
from rlvla3.errors import RecipeError

MOST_NAMED = 20
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class WeightNames:
    """How a network's names correspond to a checkpoint's.

    renames: pairs of prefixes (ours, theirs). The longest prefix that fits wins. ("", "model.") puts "model." in front of all names.
    tied: their name -> their name of the same tensor. Both hold the same numbers, and the network has only the second.
    unused: prefixes of their names that the network has no use for, each for a documented reason. They are carried, and written back as they came.
    optional: our names that a checkpoint may lack; the network keeps what it was built with. They are stated.
    """

    renames: Sequence[tuple[str, str]] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def theirs(self, ours: str) -> str:
        """The checkpoint's name of a network's tensor."""
        return _renamed(ours, self.renames)

    def ours(self, theirs: str) -> str:
        """The network's name of a checkpoint's tensor."""
        return _renamed(theirs, [(theirs, ours) for ours, theirs in self.renames])

    def stored(self, theirs: str, weights: WeightFiles) -> str:
        """The name by which a checkpoint stores a tensor: of tied names, it may have any."""
        copies = [copy for copy, original in self.tied.items() if original == theirs and copy in weights]
        return copies[0] if copies and theirs not in weights else theirs

    def check(self, names: Iterable[str]) -> None:
        """Raise ValueError where two of a network's names have one name in the checkpoint, or a name does not come back. It is a mistake of ours."""
        theirs = {name: self.theirs(name) for name in names}
        lost = [name for name, other in theirs.items() if self.ours(other) != name]
        double = [name for name, count in Counter(theirs.values()).items() if count > 1]
        if lost or double:
            raise ValueError(f"the names of weights do not correspond one to one: {_some(lost + double)}")


def load_weights(network: nn.Module, checkpoint: Checkpoint, names: WeightNames) -> list[str]:
    """Load a checkpoint's weights into `network`, tensor by tensor. Returns sentences about casts and about tensors that it has no use for.

    Raises RecipeError, naming every key that is missing, unexpected or of another shape, and the file of a number that is not finite.
    """
    own, weights, where = network.state_dict(keep_vars=True), checkpoint.weights, checkpoint.folder
    names.check(own)
    wanted = {names.stored(names.theirs(name), weights): name for name in own}
    _check_keys(wanted, own, weights, names, where)
    casts: Counter[tuple[str, str]] = Counter()
    for theirs, ours in wanted.items():
        if theirs in weights:
            read = weights.tensor(theirs)
            if read.is_floating_point() and not bool(torch.isfinite(read).all()):
                raise RecipeError(
                    f"{weights[theirs].file}: {theirs} holds numbers that are not finite (NaN or infinity). Give a checkpoint of a run that went well"
                )
            if read.dtype != own[ours].dtype:
                casts[_name(read.dtype), _name(own[ours].dtype)] += 1
            with torch.no_grad():
                own[ours].copy_(read)
    _check_tied(weights, names)
    stated = [f"{count} tensors of {where} are cast from {old} to {new}" for (old, new), count in casts.items()]
    unused = unused_weights(checkpoint, names)
    kept = [name for theirs, name in wanted.items() if theirs not in weights]
    stated += [f"{len(unused)} tensors of {where} are not used, and are kept for export: {_some(unused)}"] if unused else []
    return stated + ([f"{where} lacks {len(kept)} tensors that start new: {_some(kept)}"] if kept else [])


def unused_weights(checkpoint: Checkpoint, names: WeightNames) -> list[str]:
    """The checkpoint's tensors that the network has no use for, and that are written back as they came."""
    return [name for name in checkpoint.weights if names.unused and name.startswith(names.unused)]


def _check_keys(wanted: Mapping[str, str], own: Mapping[str, Tensor], weights: WeightFiles, names: WeightNames, where: Path) -> None:
    missing = [theirs for theirs, ours in wanted.items() if theirs not in weights and not (names.optional and ours.startswith(names.optional))]
    unexpected = [name for name in weights if name not in wanted and name not in names.tied and not (names.unused and name.startswith(names.unused))]
    shapes = [
        f"{theirs} ({list(weights[theirs].shape)} in the checkpoint, {list(own[ours].shape)} in the network)"
        for theirs, ours in wanted.items()
        if theirs in weights and weights[theirs].shape != tuple(own[ours].shape)
    ]
    problems = [
        f"{len(found)} {what}: {_some(found)}" for what, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)) if found
    ]
    if problems:
        files = sorted({weights[name].file.name for name in [*unexpected, *(shape.split(" ")[0] for shape in shapes)]})
        place = f"{where} ({', '.join(files[:3])})" if files else str(where)
        raise RecipeError(
            f"the weights of {place} do not fit the network. {'. '.join(problems)}. Give the checkpoint that belongs to these sizes, or set "
            f"policy.options.model"
        )


def _check_tied(weights: WeightFiles, names: WeightNames) -> None:
    for copy, original in names.tied.items():
        if copy in weights and original in weights and not torch.equal(weights.tensor(copy), weights.tensor(original)):
            raise RecipeError(f"{weights[copy].file}: {copy} must hold the numbers of {original}, to which it is tied, and holds others")


def write_weights(folder: Path, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], names: WeightNames, *, dtype: torch.dtype | None = None) -> list[str]:
    """Write `tensors`, by the network's names, into `folder` as the checkpoint's own files: with its names, formats, and division into files.

    dtype: the format of all floating-point numbers. None means that of each tensor in the checkpoint. Tensors of the checkpoint that the network has no use
    for are written as they came. Returns sentences about casts. Raises RecipeError where the checkpoint has no place for a tensor.
    """
    given = {names.theirs(name): tensor for name, tensor in tensors.items()}
    given |= {copy: given[original] for copy, original in names.tied.items() if copy in checkpoint.weights and original in given}
    if extra := [name for name in given if name not in checkpoint.weights and name not in names.tied.values()]:
        raise RecipeError(f"{len(extra)} tensors have no place in this checkpoint of layout {checkpoint.layout}: {_some(extra)}")
    files: dict[str, dict[str, Tensor]] = {}
    casts: Counter[tuple[str, str]] = Counter()
    for name, stored in checkpoint.weights.items():
        tensor = given[name] if name in given else checkpoint.weights.tensor(name)
        kind = dtype if dtype is not None and tensor.is_floating_point() else DTYPES.get(stored.dtype, tensor.dtype)
        if kind != tensor.dtype:
            casts[_name(tensor.dtype), _name(kind)] += 1
        # A copy: safetensors refuses tensors that share memory.
        files.setdefault(stored.file.name, {})[stored.name] = tensor.detach().to("cpu", kind, copy=True).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        save_file(content, folder / file, metadata={"format": "pt"})
    if len(files) > 1:
        total = sum(tensor.numel() * tensor.element_size() for content in files.values() for tensor in content.values())
        places = {name: file for file, content in files.items() for name in content}
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    return [f"{count} tensors are written as {new}, from {old}" for (old, new), count in casts.items()]


def _renamed(name: str, renames: Sequence[tuple[str, str]]) -> str:
    fitting = [pair for pair in renames if name.startswith(pair[0])]
    old, new = max(fitting, key=lambda pair: len(pair[0]), default=("", ""))
    return new + name[len(old) :]


def _some(names: Sequence[str]) -> str:
    """The names, at most 20 of them, and how many more there are."""
    shown = ", ".join(names[:MOST_NAMED])
    return f"{shown} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else shown


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
