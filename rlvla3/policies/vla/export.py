"""Writes a policy as a checkpoint that its authors' code loads: in the layout that came in, or in another one that can say the same.

Invariants:
- what is exported is what was trained: what has been written is read again, and what it says otherwise than the policy is refused or stated;
- the folder gets its name when it is complete.

The value function, and noise that the head has learned, are left out: only training needs them.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import torch
from safetensors.torch import load_file
from torch import Tensor

from rlvla3.checkpoints.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from rlvla3.checkpoints.contents import Family, Layout
from rlvla3.errors import RecipeError, some_of
from rlvla3.policies.saved_policy import SavedPolicy, read_checkpoint_config
from rlvla3.policies.vla.adapter_folder import write_adapters
from rlvla3.policies.vla.adapters import merged_tensors
from rlvla3.policies.vla.faithful import unsaid
from rlvla3.policies.vla.options import LoRAOptions
from rlvla3.policies.vla.origin import ORIGINAL, Origin
from rlvla3.policies.vla.start import TOKENIZER
from rlvla3.processing.tokenizer_files import BYTES

Adapters = Literal["merged", "apart"]
Precision = Literal["as_it_came", "fp32", "bf16"]

DTYPES: Mapping[Precision, torch.dtype | None] = {"as_it_came": None, "fp32": torch.float32, "bf16": torch.bfloat16}
WRITTEN_ANEW: Mapping[str, tuple[Layout, ...]] = {"pi0": ("lerobot", "openpi"), "pi05": ("lerobot", "openpi"), "smolvla": ("lerobot",)}
"""Family -> the layouts that its policies can be written in where they did not come in them."""

NETWORK, HEAD = "network.", "head."


@dataclass(frozen=True)
class Exported:
    """What was written. said: sentences for the user."""

    folder: Path
    layout: Layout
    said: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """The policy that is exported.

    network: its tensors, by the network's names. tokenizer: the files of its tokenizer. base: the checkpoint that it was made from, if that is known.
    """

    saved: SavedPolicy
    origin: Origin | None
    network: Mapping[str, Tensor]
    tokenizer: Sequence[Path]
    base: str | None

    @property
    def lora(self) -> LoRAOptions | None:
        given = self.saved.options.get("lora")
        return LoRAOptions.model_validate(given) if given else None


def export_policy(folder: Path, out: Path, layout: Layout | None, adapters: Adapters, precision: Precision, base: str | None) -> Exported:
    """Write the saved policy in `folder` into `out`.

    layout: None means the one that the policy came in. base: the checkpoint that the policy was made from, for adapters apart. Raises RecipeError.
    """
    saved = read_checkpoint_config(folder)
    if saved.name not in get_args(Family):
        raise RecipeError(f"{folder} holds a policy {saved.name}, which no other software has a layout for: exported are {', '.join(get_args(Family))}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"{out} is there already, and is no empty folder: choose another one")
    state = load_file(folder / "model.safetensors")
    network = {name.removeprefix(NETWORK): tensor for name, tensor in state.items() if name.startswith(NETWORK)}
    tokenizer = sorted((folder / TOKENIZER).iterdir()) if (folder / TOKENIZER).is_dir() else []
    source = _Source(saved, Origin.kept_in(folder / ORIGINAL), network, tokenizer, base)
    partial = out.with_name(f".partial.{out.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        template, said = _adapters_apart(partial, source, layout) if adapters == "apart" else _whole(partial, source, layout, DTYPES[precision])
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    said.append("the value function is left out: only training needs it")
    if any(name.startswith(HEAD) for name in state):
        said.append("the noise that the head has learned is left out: only training needs it")
    return Exported(out, template.layout, tuple(sentence.replace(str(partial), str(out)) for sentence in said))


def _whole(folder: Path, source: _Source, layout: Layout | None, dtype: torch.dtype | None) -> tuple[Checkpoint, list[str]]:
    lora, origin = source.lora, source.origin
    tensors = merged_tensors(source.network, lora)
    said = [f"the adapters of rank {lora.rank} are merged into the layers"] if lora else []
    if origin is not None and layout in (None, origin.checkpoint.layout):
        template = origin.checkpoint
        said += [*write_checkpoint(folder, template, tensors, dtype=dtype), *_updated(folder, template, source.saved)]
    else:
        with TemporaryDirectory() as place:
            template = _new_template(Path(place), source, tensors, layout)
            fillers = _fillers(template, tensors, origin)
            if fillers:
                said.append(f"{some_of(list(fillers))}: the authors' loaders ask for this, and no action depends on it")
            said += [*write_checkpoint(folder, template, {**tensors, **fillers}, dtype=dtype), *_of_tokenizer(source, template)]
    again = read_checkpoint(folder, statistics=_statistics(template, source))
    return template, said + unsaid(source.saved, again, anew=origin is None or template is not origin.checkpoint)


def _adapters_apart(folder: Path, source: _Source, layout: Layout | None) -> tuple[Checkpoint, list[str]]:
    lora, origin = source.lora, source.origin
    if lora is None:
        raise RecipeError("this policy has no adapters (policy.options.lora is null): leave --adapters apart out")
    if origin is None or layout not in (None, origin.checkpoint.layout):
        raise RecipeError("adapters apart need the checkpoint that they were trained beside, in its own layout: use --adapters merged")
    if whole := [part for part in source.saved.options["train"] if part not in lora.parts]:
        raise RecipeError(f"policy.options.train={whole} was trained whole, and a folder of adapters would lose it: use --adapters merged")
    said = write_adapters(folder, origin.checkpoint, source.network, lora, source.base)
    return origin.checkpoint, said + _updated(folder, origin.checkpoint, source.saved)


def _updated(folder: Path, template: Checkpoint, saved: SavedPolicy) -> list[str]:
    """Make the files of `folder` say what the run changed."""
    if (template.layout, template.family) == ("lerobot", "groot"):  # its files do not say what a run may change
        return []
    module = importlib.import_module(f"rlvla3.checkpoints.{template.layout}_writing")
    changes: list[str] = module.update(folder, template, saved.options, saved.chunk)
    return changes


def _new_template(place: Path, source: _Source, tensors: Mapping[str, Tensor], layout: Layout | None) -> Checkpoint:
    """A checkpoint without weights, in a layout that the policy did not come in."""
    name = source.saved.name
    known = WRITTEN_ANEW.get(name, ())
    if layout is None and known:
        layout = known[0]
    if layout is None or layout not in known:
        came = f"it came in layout {source.origin.checkpoint.layout}" if source.origin else "it began with random weights"
        raise RecipeError(
            f"a policy {name} cannot be written in layout {layout or 'of its authors'}: {came}. "
            f"{'Possible are ' + ' and '.join(known) if known else 'Its authors keep code of theirs beside their weights: start from a checkpoint of theirs'}"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    saved = source.saved
    for file in source.tokenizer:
        shutil.copyfile(file, place / file.name)
    created: Checkpoint = importlib.import_module(f"rlvla3.checkpoints.{layout}_writing").create(
        place, saved.name, saved.options, saved.spaces, saved.chunk, shapes
    )
    return created


def _of_tokenizer(source: _Source, template: Checkpoint) -> list[str]:
    """What is to be known of the tokenizer of files that are new. openpi's code has its own."""
    name = source.saved.options["processing"]["prompt"]["tokenizer"]
    if template.layout != "lerobot":
        return []
    if name == BYTES:
        return ["its prompts are made of bytes, for which lerobot has no tokenizer: only rlvla3 can run this policy"]
    return [f"lerobot looks for the tokenizer in {name}"] if Path(name).expanduser().exists() else []


def _fillers(template: Checkpoint, tensors: Mapping[str, Tensor], origin: Origin | None) -> dict[str, Tensor]:
    """Tensors that no action depends on, by names of the network's kind: the origin's, or the embedding where one has its shape, or zeros."""
    names, found = template.names, {}
    given = {names.theirs(name) for name in tensors}
    came = origin.checkpoint if origin else None
    embeddings = [tensor for name, tensor in tensors.items() if name.endswith("embed_tokens.weight")]
    for theirs, stored in template.weights.items():
        if theirs in given or theirs in names.tied:
            continue
        ours = names.ours(theirs)
        if came and came.names.theirs(ours) in came.weights:
            found[ours] = came.weights.tensor(came.names.theirs(ours))
        else:
            found[ours] = next((one for one in embeddings if tuple(one.shape) == stored.shape), torch.zeros(stored.shape))
    return found


def _statistics(template: Checkpoint, source: _Source) -> str | None:
    """Which statistics the exported folder is read with, where it has several."""
    came = source.origin is not None and template is source.origin.checkpoint
    chosen = source.saved.options.get("statistics") if came else None
    return None if chosen == "none" else chosen
