"""The settings that a pretrained policy starts with: its family's usual ones, then what a preset adds, then its checkpoint's, then what the recipe says.

Nothing here imports torch, so a recipe that does not fit its checkpoint is refused in an instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvla3.checkpoints.checkpoint import find_checkpoint, read_checkpoint
from rlvla3.config import PolicyConfig
from rlvla3.config.policy import is_saved_policy
from rlvla3.errors import RecipeError
from rlvla3.policies.saved_policy import read_checkpoint_config
from rlvla3.processing.presets import PRESETS
from rlvla3.processing.resolution import merged, resolve_processing
from rlvla3.processing.specification import Normalisation, Processing
from rlvla3.types import Spaces

TOKENIZER = "tokenizer"
"""The folder within a saved policy where its tokenizer is kept."""

NOT_FITTED = "nothing yet: cloning computes it from the demonstrations"
"""The source of numbers that leave states and actions as they are."""


def starting_options(config: PolicyConfig, spaces: Spaces, family: str, usual: dict[str, Any], statistics: str) -> dict[str, Any]:
    """The options of a pretrained policy of `family` for `spaces`, as plain data.

    usual: the family's options without a checkpoint. statistics: how the family scales states and actions where no checkpoint says it.
    Raises RecipeError where the checkpoint is of another family or cannot be read.
    """
    folder = config.starts_from
    if folder is not None and is_saved_policy(folder):
        return merged(_saved(folder), config.options)
    checkpoint = None
    if config.size == "tiny":  # it computes as many actions as the recipe executes, so that a recipe of the published size runs as it is
        usual["model"]["horizon"] = max(usual["model"]["horizon"], config.chunk)
    if folder is not None:
        checkpoint = read_checkpoint(find_checkpoint(str(folder)), statistics=config.options.get("statistics"))
        if checkpoint.family != family:
            raise RecipeError(f"policy.checkpoint={folder} is a checkpoint of {checkpoint.family}: set policy.name={checkpoint.family}")
    said: Mapping[str, Any] = checkpoint.options if checkpoint else {}
    options = merged(usual, said, config.options)
    options["preset"] = options.get("preset") or _preset_of(spaces)
    if options["preset"] is not None and options["preset"] not in PRESETS:
        raise RecipeError(f"policy.options.preset={options['preset']} is not known: set it to one of {', '.join(PRESETS)}")
    processing = resolve_processing(
        spaces,
        family,
        usual=usual["processing"] if checkpoint else _shown_in_order(usual["processing"], spaces),
        preset=options["preset"],
        checkpoint=said.get("processing"),
        layout=checkpoint.layout if checkpoint else None,
        recipe=config.options.get("processing"),
    )
    options["processing"] = _with_room_for_statistics(processing, statistics, spaces).model_dump()
    return options


def _saved(folder: Path) -> dict[str, Any]:
    """The options of a policy that rlvla3 saved. Its tokenizer is the one that lies in its folder, wherever the first one has gone."""
    options = read_checkpoint_config(folder).options
    if (folder / TOKENIZER).is_dir():
        return merged(options, {"processing": {"prompt": {"tokenizer": str(folder / TOKENIZER)}}})
    return options


def _preset_of(spaces: Spaces) -> str | None:
    """The preset whose cameras are those of the simulator."""
    for name, preset in PRESETS.items():
        known = {camera for cameras in preset.cameras.values() for camera in cameras}
        if spaces.cameras and known >= set(spaces.cameras):
            return name
    return None


def _shown_in_order(processing: Mapping[str, Any], spaces: Spaces) -> dict[str, Any]:
    """A model without a checkpoint sees the simulator's cameras in their order."""
    cameras = [{**camera, "camera": shown} for camera, shown in zip(processing["images"]["cameras"], spaces.cameras, strict=False)]
    return merged(processing, {"images": {"cameras": cameras}})


def _with_room_for_statistics(processing: Processing, method: str, spaces: Spaces) -> Processing:
    """Where there are no statistics, numbers that leave a state as it is, and scale actions from the simulator's bounds to -1..1. Cloning replaces them."""
    states = processing.state.dimensions or range(spaces.state)
    actions = processing.actions.dimensions or range(spaces.action.size)
    low, high = spaces.action.low, spaces.action.high
    update: dict[str, Any] = {}
    if processing.state.normalisation == Normalisation() and len(states):
        update["state"] = processing.state.model_copy(update={"normalisation": _statistics(method, len(states), -1.0, 1.0)})
    if processing.actions.normalisation == Normalisation() and low < high:
        update["actions"] = processing.actions.model_copy(update={"normalisation": _statistics(method, max(actions) + 1, low, high)})
    return processing.model_copy(update=update)


def _statistics(method: str, size: int, low: float, high: float) -> Normalisation:
    """Numbers that scale low..high to -1..1 in each dimension."""
    if method == "mean_std":
        return Normalisation(method="mean_std", source=NOT_FITTED, mean=[(low + high) / 2] * size, std=[(high - low) / 2] * size)
    return Normalisation(method="bounds", source=NOT_FITTED, low=[low] * size, high=[high] * size)
