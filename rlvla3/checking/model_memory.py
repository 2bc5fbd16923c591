"""What a recipe's model needs in memory, before anything runs: counted from its own shapes, without its weights being made.

    trainer     weights, gradients and AdamW's two moments of what is trained, and copies of earlier policies where the recipe compares with them
    generator   weights
    host        two versions on the weight plane (links/weights/versions.py; by CUDA IPC they are on the trainer's device), and with engine.offload what is away

Activations are not in it: they grow with training.micro_batch and engine.max_batch, and only a run tells by how much.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rlvla3.algorithms.corrections import make_correction
from rlvla3.config import Recipe
from rlvla3.errors import RecipeError
from rlvla3.links.weights.layout import WeightLayout
from rlvla3.links.weights.versions import BUFFERS
from rlvla3.observability.wording import size
from rlvla3.policies.registry import make_policy
from rlvla3.runtimes.workers.device import check_on_host, choose_device
from rlvla3.types import Spaces

SETTINGS = {"trainer": "training.device", "generator": "engine.device"}


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Bytes. weights: the whole policy. trained: its trainable parameters; actor: those of them that are not the critic's own. version: on the weight plane."""

    weights: int
    trained: int
    actor: int
    version: int


def model_memory(recipe: Recipe, spaces: Spaces) -> ModelMemory:
    """Raises RecipeError for settings that the policy refuses."""
    with torch.device("meta"):
        policy = make_policy(recipe.policy.model_copy(update={"checkpoint": None}), spaces)
    return ModelMemory(
        weights=sum(tensor.nbytes for tensor in (*policy.parameters(), *policy.buffers())),
        trained=sum(parameter.nbytes for parameter in policy.parameters() if parameter.requires_grad),
        actor=sum(parameter.nbytes for parameter in policy.actor_parameters()),
        version=WeightLayout(policy.published(), recipe.weights.dtype).size,
    )


def check_model(recipe: Recipe, spaces: Spaces) -> Iterator[str]:
    """What the stages need, a line each. Raises RecipeError where that is more than a stage's share of its device."""
    model, training, share = model_memory(recipe, spaces), recipe.training, recipe.memory
    devices = _devices(recipe)
    copies = int(recipe.algorithm.reference.weight > 0) + int(make_correction(recipe.algorithm).anchor == "proximal")
    parts = training.ranks if training.shards_policy else 1
    held = {"weights": model.weights, "gradients": model.trained, "AdamW's moments": 2 * model.trained, "earlier policies": copies * model.actor}
    rank = {name: number // parts for name, number in held.items() if number}
    yield f"weight plane {size(BUFFERS * model.version)} of the {_home_of_versions(recipe)}'s memory, for {BUFFERS} versions"
    each = "" if training.ranks == 1 else f" for each of {training.ranks} ranks"
    needed = sum(rank.values())
    yield (
        f"trainer {size(needed)}{each} ({', '.join(f'{name} {size(number)}' for name, number in rank.items())}), beside the activations of "
        f"{training.micro_batch} decisions{_limit('trainer', devices['trainer'], needed, share.trainer)}"
    )
    generators = recipe.engine.generators
    decisions = f"at most {recipe.engine.max_batch}" if recipe.engine.max_batch else "all waiting"
    each = "" if generators == 1 else f" for each of {generators}"
    crowd = _on_one_device(recipe)
    yield (
        f"generator {size(model.weights)}{each}, beside the activations of {decisions} decisions"
        f"{_limit('generator', devices['generator'], crowd * model.weights, share.generator)}"
    )
    if recipe.engine.offload:
        away = training.ranks * (needed - rank["gradients"]) + generators * model.weights
        yield (
            f"engine.offload: a device that both are on holds the larger, {size(max(needed, crowd * model.weights))}, and not "
            f"{size(needed + crowd * model.weights)}; what is away takes up to {size(away)} of host memory"
        )


def _devices(recipe: Recipe) -> dict[str, str]:
    """Where the stages are; on Ray nobody knows the hosts' devices yet."""
    on_ray = recipe.runtime == "ray"
    return {stage: "cpu" if on_ray else setting for stage, setting in (("trainer", recipe.training.device), ("generator", recipe.engine.device))}


def _home_of_versions(recipe: Recipe) -> str:
    """Raises RecipeError where versions are to lie on a GPU, and there is none."""
    on_host = recipe.weights.on_host
    for stage, setting in _devices(recipe).items():
        check_on_host(on_host, choose_device(setting, SETTINGS[stage]), SETTINGS[stage])
    return "trainer's device" if on_host == "cuda_ipc" else "host"


def _on_one_device(recipe: Recipe) -> int:
    """Generators on the device that has most of them. Beyond one host it is the placement's affair: one a device."""
    if recipe.runtime == "ray":
        return 1
    devices = [choose_device(recipe.engine.device, "engine.device", number) for number in range(recipe.engine.generators)]
    return max(map(devices.count, devices))


def _limit(stage: str, setting: str, needed: int, share: float | None) -> str:
    """In words, what the stage may take of its device. Raises RecipeError where it needs more than that, as far as this machine has the device."""
    said = "" if share is None else f"; memory.{stage}={share:g} of a device"
    there = device_bytes(setting, SETTINGS[stage])
    if there is None:
        return said
    allowed = there * (share or 1.0)
    if needed > allowed:
        raise RecipeError(
            f"the {stage} needs {size(needed)} before any activation, and may take {size(allowed)} of a device of {size(there)}"
            f"{f' (memory.{stage}={share:g})' if share else ''}: {'raise it, or ' if share else ''}use a smaller policy"
            f"{', or training.sharding=full with more ranks' if stage == 'trainer' else ''}"
        )
    return f"{said}, {size(allowed)} of {size(there)}"


def device_bytes(setting: str, key: str) -> int | None:
    """All memory of the GPU that a setting names; None where it is no GPU. key: the setting's name, for the error. Raises RecipeError where it is not there."""
    device = choose_device(setting, key)
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
