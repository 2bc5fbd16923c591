"""The network of an inspected policy: its parameters by part, what is trained, number formats and memory. It is built without weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlvla3.checking.inspection import Inspected
from rlvla3.checking.model_memory import check_model
from rlvla3.checkpoints.weights import DTYPES, fitting_weights
from rlvla3.observability.formatting import number_of, quantity, size
from rlvla3.policies.registry import build_policy, policy_class
from rlvla3.policies.vla.adapters import base_tensors
from rlvla3.policies.vla.options import PARTS
from rlvla3.types import ActionSpace, Spaces

STEP = 100
"""Longest episode of a simulator that is not known. Nothing here depends on it."""


@dataclass(frozen=True)
class PartOfModel:
    """Parameters of a part: all, those that are trained, and those of its adapters."""

    name: str
    parameters: int
    trained: int
    adapters: int


@dataclass(frozen=True)
class Model:
    """What was found.

    formats: of parameters, in memory. casts: what loading changes. bytes: of the whole policy, without activations. unreached: tensors that are never trained.
    """

    parts: tuple[PartOfModel, ...]
    formats: dict[str, int]
    casts: tuple[str, ...]
    bytes: int
    trained_bytes: int
    unreached: int


def model_of(inspected: Inspected) -> Model:
    """Build the policy on the meta device, and count. Raises RecipeError where the checkpoint's weights do not fit its network."""
    with torch.device("meta"):
        policy: Any = build_policy(inspected.config, inspected.spaces) if inspected.spaces else _without_simulator(inspected)
    casts = _casts(base_tensors(policy.network), inspected)
    parts = []
    for name in PARTS:
        parameters = {parameter: key for module in policy.network.part(name) for key, parameter in module.named_parameters()}
        adapters = sum(parameter.numel() for parameter, key in parameters.items() if ".lora_" in f".{key}")
        trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        parts.append(PartOfModel(name, sum(parameter.numel() for parameter in parameters), trained, adapters))
    critic = sum(parameter.numel() for parameter in policy.critic_parameters())
    head = list(policy.head.parameters()) if isinstance(policy.head, torch.nn.Module) else []
    others = critic + sum(parameter.numel() for parameter in head)
    parts.append(PartOfModel("value function" if not head else "value function, head's noise", others, others, 0))
    formats = Counter[str]()
    for parameter in policy.parameters():
        formats[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    unreached = len(policy.network.unreached())
    held = sum(tensor.nbytes for tensor in (*policy.parameters(), *policy.buffers()))
    trained_bytes = sum(parameter.nbytes for parameter in policy.parameters() if parameter.requires_grad)
    return Model(tuple(parts), dict(formats), casts, held, trained_bytes, unreached)


def _casts(network: Mapping[str, Tensor], inspected: Inspected) -> tuple[str, ...]:
    """What loading changes in the format of a checkpoint's weights, in words. Raises RecipeError where they do not fit the network."""
    checkpoint = inspected.checkpoint
    if checkpoint is None or inspected.folder is not None:
        return ()
    counts = Counter[tuple[str, str]]()
    for theirs, ours in fitting_weights(network, checkpoint).items():
        if theirs in checkpoint.weights:
            stored, here = DTYPES.get(checkpoint.weights[theirs].dtype), network[ours].dtype
            counts[str(stored).removeprefix("torch."), str(here).removeprefix("torch.")] += int(stored != here)
    said = [f"loading casts {number_of(count, 'tensor')} from {old} to {new}" for (old, new), count in counts.items() if count]
    return tuple(said) or ("loading casts nothing",)


def _without_simulator(inspected: Inspected) -> Any:
    """The policy for a simulator that would fit: it shows what the model's cameras take."""
    processing = inspected.options.processing
    cameras = {camera.key: (64, 64, 3) for camera in processing.images.cameras}
    shown = [camera.model_copy(update={"camera": camera.key}) for camera in processing.images.cameras]
    prompt = processing.prompt.model_copy(update={"tokenizer": "bytes", "begin": "tokenizer"})
    fitting = processing.model_copy(update={"images": processing.images.model_copy(update={"cameras": shown}), "prompt": prompt})
    action = ActionSpace("continuous", processing.actions.normalisation.dimensions or processing.actions.size)
    state = processing.state.normalisation.dimensions or processing.state.size or 1
    spaces = Spaces(cameras, state, action, STEP)
    return policy_class(inspected.config.name)(spaces, 1, inspected.options.model_copy(update={"processing": fitting}))


def training_lines(inspected: Inspected, model: Model) -> Iterator[str]:
    """What is trained, in words and numbers."""
    options = inspected.options
    lora = options.lora
    yield (", ".join(options.train) or "nothing") + (f"; adapters of rank {lora.rank}, alpha {lora.alpha} in {', '.join(lora.parts)}" if lora else "")
    for part in model.parts:
        adapters = f", {quantity(part.adapters)} of them in adapters" if part.adapters else ""
        yield f"  {part.name:<30}{quantity(part.parameters):>8} parameters, {quantity(part.trained):>8} trained{adapters}"
    total, trained = sum(part.parameters for part in model.parts), sum(part.trained for part in model.parts)
    yield f"  {'together':<30}{quantity(total):>8} parameters, {quantity(trained):>8} trained"
    if model.unreached:
        yield f"  {model.unreached} tensors have no influence on actions, and are never trained"


def format_lines(inspected: Inspected, model: Model) -> Iterator[str]:
    """Number formats: in the checkpoint, and in memory."""
    options = inspected.options
    if inspected.checkpoint is not None:
        stored = Counter(tensor.dtype for tensor in inspected.checkpoint.weights.values())
        yield f"in the checkpoint: {', '.join(f'{count} tensors {kind}' for kind, count in stored.most_common())}"
    yield f"in memory: {', '.join(f'{quantity(count)} parameters {kind}' for kind, count in model.formats.items())}"
    yield from model.casts
    chosen = "bf16 on a GPU, and fp32 on a CPU" if options.precision == "auto" else options.precision
    yield f"passes: {chosen} (policy.options.precision={options.precision}); trained weights, moments, norms and log-probs: fp32"


def memory_lines(inspected: Inspected, model: Model) -> Iterator[str]:
    """Memory for acting and for training, without activations."""
    if inspected.recipe is not None and inspected.spaces is not None:
        yield from check_model(inspected.recipe, inspected.spaces)
        return
    yield f"acting: weights {size(model.bytes)}, plus activations"
    trained = model.trained_bytes
    held = f"weights {size(model.bytes)}, gradients {size(trained)}, AdamW's moments {size(2 * trained)}"
    yield f"training: {size(model.bytes + 3 * trained)} ({held}), plus activations"
