"""The memory that a recipe's model needs, known before anything runs. It is computed from the shapes of the model; its weights are not created.

    trainer     weights, gradients and AdamW's two moments of the trained parameters, and copies of earlier policies if the algorithm compares with them
    generator   weights
    host        two versions on the weight plane (links/weights/versions.py; with CUDA IPC they are on the trainer's device), and with engine.offload what has
                been moved off the device

Activations are not included. They grow with training.micro_batch and engine.max_batch, and only a run shows by how much.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rlvla3.algorithms.corrections import make_correction
from rlvla3.config import Recipe
from rlvla3.devices import choose_device
from rlvla3.errors import RecipeError
from rlvla3.links.weights.layout import WeightLayout
from rlvla3.links.weights.versions import BUFFERS
from rlvla3.observability.formatting import size
from rlvla3.policies.registry import build_policy
from rlvla3.runtimes.workers.device import check_on_host
from rlvla3.types import Spaces

SETTINGS = {"trainer": "training.device", "generator": "engine.device"}


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Sizes in bytes.

    weights: the whole policy. trained: its trainable parameters. actor: the trainable parameters without the critic's own. version: one on the weight plane.
    """

    weights: int
    trained: int
    actor: int
    version: int


def model_memory(recipe: Recipe, spaces: Spaces) -> ModelMemory:
    """The sizes of the policy of `recipe`. Raises RecipeError for settings that the policy refuses."""
    with torch.device("meta"):
        policy = build_policy(recipe.policy, spaces)
    return ModelMemory(
        weights=sum(tensor.nbytes for tensor in (*policy.parameters(), *policy.buffers())),
        trained=sum(parameter.nbytes for parameter in policy.parameters() if parameter.requires_grad),
        actor=sum(parameter.nbytes for parameter in policy.actor_parameters()),
        version=WeightLayout(policy.published(), recipe.weights.dtype).size,
    )


def check_model(recipe: Recipe, spaces: Spaces) -> Iterator[str]:
    """The memory that each stage needs, one line each. Raises RecipeError if a stage needs more than its share of its device."""
    model, training, share = model_memory(recipe, spaces), recipe.training, recipe.memory
    devices = _devices(recipe)
    algorithm, staleness = recipe.algorithm, recipe.engine.max_staleness
    proximal = make_correction(algorithm).anchor == "proximal" or algorithm.sampler_correction != "none" or staleness > 0
    copies = int(algorithm.reference.weight > 0) + int(proximal) + int(staleness > 1)  # training/sampler_mismatch.py keeps the last one
    parts = training.ranks if training.shards_policy else 1
    held = {"weights": model.weights, "gradients": model.trained, "AdamW's moments": 2 * model.trained, "earlier policies": copies * model.actor}
    rank = {name: number // parts for name, number in held.items() if number}
    versions = BUFFERS + (recipe.evaluation.every > 0)
    yield f"weight plane {size(versions * model.version)} of the {_home_of_versions(recipe)}'s memory, for {versions} versions"
    each = "" if training.ranks == 1 else f" for each of {training.ranks} ranks"
    needed = sum(rank.values())
    yield (
        f"trainer {size(needed)}{each} ({', '.join(f'{name} {size(number)}' for name, number in rank.items())}), plus the activations of "
        f"{training.micro_batch} decisions{_limit('trainer', devices['trainer'], needed, share.trainer)}"
    )
    generators = recipe.engine.generators
    decisions = "all waiting" if recipe.engine.batch_limit is None else f"at most {recipe.engine.batch_limit}"
    each = "" if generators == 1 else f" for each of {generators}"
    sharing = _generators_on_one_device(recipe)
    aside = model.version if recipe.evaluation.every and not recipe.engine.offload else 0
    while_evaluating = f" and {size(aside)} while an evaluation runs beside training" if aside else ""
    yield (
        f"generator {size(model.weights)}{each}{while_evaluating}, plus the activations of {decisions} decisions"
        f"{_limit('generator', devices['generator'], sharing * (model.weights + aside), share.generator)}"
    )
    if recipe.engine.offload:
        away = training.ranks * (needed - rank["gradients"]) + generators * model.weights
        yield (
            f"engine.offload: a device with both stages holds only the larger, {size(max(needed, sharing * model.weights))}, and not "
            f"{size(needed + sharing * model.weights)}; what is off the device takes up to {size(away)} of host memory"
        )


def _devices(recipe: Recipe) -> dict[str, str]:
    """The device setting of each stage. On Ray it is "cpu", because the hosts' devices are not known yet."""
    on_ray = recipe.runtime == "ray"
    return {stage: "cpu" if on_ray else setting for stage, setting in (("trainer", recipe.training.device), ("generator", recipe.engine.device))}


def _home_of_versions(recipe: Recipe) -> str:
    """Where weight versions are stored, in words. Raises RecipeError if they must be on a GPU and there is none."""
    on_host = recipe.weights.on_host
    for stage, setting in _devices(recipe).items():
        check_on_host(on_host, choose_device(setting, SETTINGS[stage]), SETTINGS[stage])
    return "trainer's device" if on_host == "cuda_ipc" else "host"


def _generators_on_one_device(recipe: Recipe) -> int:
    """The number of generators on the device that has most of them. On several hosts the placement decides: one per device."""
    if recipe.runtime == "ray":
        return 1
    devices = [choose_device(recipe.engine.device, "engine.device", number) for number in range(recipe.engine.generators)]
    return max(map(devices.count, devices))


def _limit(stage: str, setting: str, needed: int, share: float | None) -> str:
    """How much of its device the stage may use, in words. Raises RecipeError if it needs more. Nothing is checked if the device is no GPU."""
    limit = "" if share is None else f"; memory.{stage}={share:g} of a device"
    total = device_bytes(setting, SETTINGS[stage])
    if total is None:
        return limit
    allowed = total * (share or 1.0)
    if needed > allowed:
        raise RecipeError(
            f"the {stage} needs {size(needed)} without activations, but may use {size(allowed)} of a device of {size(total)}"
            f"{f' (memory.{stage}={share:g})' if share else ''}: {'raise it, or ' if share else ''}use a smaller policy"
            f"{', or training.sharding=full with more ranks' if stage == 'trainer' else ''}"
        )
    return f"{limit}, {size(allowed)} of {size(total)}"


def device_bytes(setting: str, key: str) -> int | None:
    """The whole memory of the GPU that `setting` names, in bytes; None if it names no GPU. key: the setting's name, for the error.

    Raises RecipeError if there is no such GPU.
    """
    device = choose_device(setting, key)
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
