"""Whether an exported checkpoint says what the policy does: what it says otherwise is refused, and what no file of its layout says is stated.

Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlvla3.checkpoints.contents import Checkpoint
from rlvla3.errors import RecipeError
from rlvla3.policies.saved_policy import SavedPolicy
from rlvla3.processing.specification import Normalisation, Processing

SETTINGS = {"horizon", "embodiment", "stop_token", "min_period", "max_period"}
"""What the model's options say beside sizes: no tensor depends on it."""

NEEDED = {"images.size", "images.resize", "images.crop_before", "images.crop", "state.size", "actions.size", "prompt.form"}
"""Settings of processing that a layout must be able to say."""

SAME_TOKENS = {"line", "openpi_line"}

UNCOMPARED = {
    "source",
    "epsilon",
    "epsilon_use",
    "double",
    "constant",
    "mean",
    "std",
    "low",
    "high",
    "mask",
    "method",
    "cameras",
    "empty",
    "tokenizer",
    "begin",
    "overlong",
}
"""Settings of processing that are compared otherwise, or that change no number by more than rounding."""

CLOSE = 1e-5


def unsaid(saved: SavedPolicy, written: Checkpoint, *, anew: bool) -> list[str]:
    """Sentences about what the policy does and the written checkpoint does not say. anew: whether the policy did not come in this layout.

    Raises RecipeError where the layout cannot hold the policy: sizes of the network, or the numbers that scale states and actions.
    """
    said = [f"{written.layout}'s layout: {sentence}" for sentence in _of_model(saved.options["model"], written, anew)]
    own, theirs = Processing.model_validate(saved.options["processing"]), Processing.model_validate(written.options["processing"])
    _check_scales(saved, own, theirs, written)
    cameras = [f"{camera.key} shows {camera.camera}" for camera in own.images.cameras if camera.camera]
    said.append(f"cameras: {', '.join(cameras)}")
    if own.images.turn != "none":
        said.append(
            f"frames are {own.images.turn} before they are fed (processing.images.turn): no layout says so, so the program that runs the policy must do it"
        )
    for key, ours, other in _differences(own.model_dump(), theirs.model_dump()):
        if anew and _is_needed(key, saved.name, written, {ours, other} if key == "prompt.form" else set()):
            raise RecipeError(
                f"the policy has processing.{key}={_plain(ours)!r}, and layout {written.layout} cannot say that: whoever reads it takes {_plain(other)!r}. So "
                f"the policy cannot be written in this layout"
            )
        if _matters(key, saved.name, ours, other):
            said.append(
                f"processing.{key} is {_plain(ours)!r} here, and {_plain(other)!r} as the files say it: the program that runs the policy must do it as here"
            )
    return said


def _is_needed(key: str, family: str, written: Checkpoint, forms: set[str]) -> bool:
    """openpi keeps the prompt's form of pi0.5 in its code. pi0.5 has no state token."""
    if family == "pi05" and (key == "state.size" or (key == "prompt.form" and written.layout == "openpi")):
        return False
    return key in NEEDED and forms != SAME_TOKENS


def _of_model(ours: Mapping[str, Any], written: Checkpoint, anew: bool) -> Iterator[str]:
    for key, own, theirs in _differences(ours, written.options["model"]):
        if anew and key not in SETTINGS:
            raise RecipeError(
                f"the policy has model.{key}={own!r}, and layout {written.layout} does not say that: whoever reads it takes {theirs!r}. So the policy cannot "
                f"be written in this layout"
            )
        yield f"model.{key} is {own!r} here and {theirs!r} for whoever reads the files: set it there"


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The settings that both have, and that differ: key, ours, theirs."""
    for key, own in ours.items():
        if key not in theirs or key in UNCOMPARED:
            continue
        if isinstance(own, Mapping) and isinstance(theirs[key], Mapping):
            yield from _differences(own, theirs[key], f"{before}{key}.")
        elif _plain(own) != _plain(theirs[key]):
            yield f"{before}{key}", own, theirs[key]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _matters(key: str, family: str, ours: Any, theirs: Any) -> bool:
    if key == "images.turn" or (key == "state.size" and family == "pi05"):  # stated already; pi0.5 has no state token
        return False
    if key == "images.mean" or key == "images.std":
        return not all(math.isclose(one, other, abs_tol=CLOSE) for one, other in zip(ours, theirs, strict=True))
    if key == "actions.relative":
        return [place for place, relative in enumerate(ours) if relative] != [place for place, relative in enumerate(theirs) if relative]
    return True


def _check_scales(saved: SavedPolicy, own: Processing, theirs: Processing, written: Checkpoint) -> None:
    executed = own.actions.dimensions or range(saved.spaces.action.size)
    fed = range(len(own.state.dimensions) or saved.spaces.state)
    for name, dimensions in (("state", fed), ("actions", executed)):
        if name == "state" and own.state.size is None and own.prompt.form != "task_state":
            continue
        ours, other = (_scales(getattr(how, name).normalisation, dimensions) for how in (own, theirs))
        if any(not math.isclose(one, two, rel_tol=CLOSE, abs_tol=CLOSE) for pairs in zip(ours, other, strict=True) for one, two in zip(*pairs, strict=True)):
            raise RecipeError(
                f"the policy scales its {name} by numbers from {getattr(own, name).normalisation.source or 'the recipe'}, and they cannot be written into this "
                f"checkpoint of layout {written.layout}, which has {getattr(theirs, name).normalisation.source or 'none'}: train with the checkpoint's own "
                f"statistics, or use another --layout"
            )


def _scales(how: Normalisation, dimensions: Sequence[int]) -> list[tuple[float, float]]:
    """What is subtracted from each dimension, and what it is divided by."""
    found = []
    for dimension in dimensions:
        known = how.method != "none" and dimension < how.dimensions and (not how.mask or how.mask[dimension])
        if not known:
            found.append((0.0, 1.0))
        elif how.method == "mean_std":
            found.append((how.mean[dimension], how.std[dimension]))
        else:
            low, high = how.low[dimension], how.high[dimension]
            found.append(((low + high) / 2, (high - low) / 2))
    return found
