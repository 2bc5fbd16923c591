"""The weights of a checkpoint: loaded strictly, and written back in the layout that came in.

Invariant: nothing is skipped, filled in or cast without a word. Every key that is missing, unexpected or of another shape is named.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlvla3.checkpoints.contents import Checkpoint, write_json
from rlvla3.checkpoints.lerobot_statistics import is_old_buffer
from rlvla3.checkpoints.weight_files import WeightFiles
from rlvla3.checkpoints.weight_names import WeightNames
from rlvla3.errors import RecipeError, some_of

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def fitting_weights(network: Mapping[str, Tensor], checkpoint: Checkpoint) -> dict[str, str]:
    """The checkpoint's name of each tensor of a network -> the network's name. The tensors may be on the meta device.

    Raises RecipeError, naming every key that is missing, unexpected or of another shape.
    """
    weights, names = checkpoint.weights, checkpoint.names
    names.check(network)
    wanted = {names.stored(names.theirs(name), weights): name for name in network}
    _check_keys(wanted, network, weights, names, checkpoint.folder)
    return wanted


def load_weights(network: Mapping[str, Tensor], checkpoint: Checkpoint) -> list[str]:
    """Load a checkpoint's weights into the tensors of a network, one by one. Returns sentences about casts and about tensors that it has no use for.

    Raises RecipeError, naming every key that is missing, unexpected or of another shape, and the file of a number that is not finite.
    """
    weights, where = checkpoint.weights, checkpoint.folder
    wanted = fitting_weights(network, checkpoint)
    casts: Counter[tuple[str, str]] = Counter()
    for theirs, ours in wanted.items():
        if theirs in weights:
            read = weights.tensor(theirs)
            if read.is_floating_point() != network[ours].is_floating_point():
                stored = weights[theirs]
                raise RecipeError(f"{stored.file}: {stored.name} holds {_name(read.dtype)}, and the network has {_name(network[ours].dtype)} there")
            check_finite_weight(read, weights[theirs].name, weights[theirs].file)
            if read.dtype != network[ours].dtype:
                casts[_name(read.dtype), _name(network[ours].dtype)] += 1
            with torch.no_grad():
                network[ours].copy_(read)
    for name in (unused := checkpoint.unused):
        if not is_old_buffer(name):  # lerobot 0.3 wrote infinity where it had no statistics
            check_finite_weight(weights.tensor(name), weights[name].name, weights[name].file)
    stated = [f"{count} tensors of {where} are cast from {old} to {new}" for (old, new), count in casts.items()]
    kept = [name for theirs, name in wanted.items() if theirs not in weights]
    stated += [f"{len(unused)} tensors of {where} are not used, and are kept for export: {some_of(unused)}"] if unused else []
    return stated + ([f"{where} lacks {len(kept)} tensors that start new: {some_of(kept)}"] if kept else [])


def check_finite_weight(tensor: Tensor, name: str, file: Path) -> None:
    """Raise RecipeError where a weight holds NaN or infinity. It reads the tensor once, and takes no memory."""
    if not tensor.is_floating_point() or not tensor.numel():
        return
    # NaN is smallest and largest of its tensor. torch has no aminmax for formats of 8 bits.
    bounds = (tensor.float() if tensor.element_size() == 1 else tensor).aminmax()
    if not all(math.isfinite(bound) for bound in bounds):
        raise RecipeError(f"{file}: {name} holds numbers that are not finite (NaN or infinity). Give a checkpoint of a run that went well")


def _check_keys(wanted: Mapping[str, str], network: Mapping[str, Tensor], weights: WeightFiles, names: WeightNames, where: Path) -> None:
    missing = [theirs for theirs, ours in wanted.items() if theirs not in weights and not (names.optional and ours.startswith(names.optional))]
    unexpected = [
        weights[name].name for name in weights if name not in wanted and name not in names.tied and not (names.unused and name.startswith(names.unused))
    ]
    wrong = [theirs for theirs, ours in wanted.items() if theirs in weights and weights[theirs].shape != tuple(network[ours].shape)]
    shapes = [
        f"{weights[theirs].name} ({list(weights[theirs].shape)} in the checkpoint, {list(network[wanted[theirs]].shape)} in the network)" for theirs in wrong
    ]
    problems = [
        f"{len(found)} {what}: {some_of(found)}" for what, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)) if found
    ]
    if problems:
        files = sorted({stored.file.name for name, stored in weights.items() if name in wrong or stored.name in unexpected})
        place = f"{where} ({', '.join(files[:3])})" if files else str(where)
        raise RecipeError(
            f"the weights of {place} do not fit the network. {'. '.join(problems)}. Give the checkpoint that belongs to these sizes, or set "
            f"policy.options.model"
        )


def write_weights(folder: Path, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None) -> list[str]:
    """Write `tensors`, by the network's names, into `folder` as the checkpoint's own files: with its names, formats, and division into files.

    dtype: the format of all floating-point numbers. None means that of each tensor in the checkpoint. Tensors of the checkpoint that the network has no use
    for are written as they came. Returns sentences about casts. Raises RecipeError where the checkpoint has no place for a tensor.
    """
    names = checkpoint.names
    given = {names.theirs(name): tensor for name, tensor in tensors.items()}
    given |= {copy: given[original] for copy, original in names.tied.items() if copy in checkpoint.weights and original in given}
    if extra := [name for name in given if name not in checkpoint.weights and name not in names.tied.values()]:
        raise RecipeError(f"{len(extra)} tensors have no place in this checkpoint of layout {checkpoint.layout}: {some_of(extra)}")
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
    for file in [name for name in files if name.endswith(".pt")]:  # OpenVLA's heads
        torch.save(files.pop(file), folder / file)
    for file, content in files.items():
        save_file(content, folder / file, metadata={"format": "pt"})
    if len(files) > 1:
        total = sum(tensor.numel() * tensor.element_size() for content in files.values() for tensor in content.values())
        places = {name: file for file, content in files.items() for name in content}
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    return [f"{count} tensors are written as {new}, from {old}" for (old, new), count in casts.items()]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
