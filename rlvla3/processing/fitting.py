"""Whether processing fits a simulator: cameras, dimensions, statistics. Nothing here imports torch, so a recipe is refused in an instant."""

from __future__ import annotations

from rlvla3.errors import RecipeError
from rlvla3.processing.specification import ActionProcessing, ImageProcessing, Normalisation, Processing, StateProcessing
from rlvla3.types import Spaces

PADDING = {"mean_std": {(0.0, 0.0), (0.0, 1.0)}, "bounds": {(0.0, 0.0)}}
"""Statistics of dimensions that only fill up a list: mean and deviation, or low and high."""


def check_fits(processing: Processing, spaces: Spaces) -> None:
    """Raise RecipeError, naming the setting and its source, where the model cannot be fed by this simulator or cannot drive it."""
    _check_images(processing.images, spaces)
    _check_state(processing, spaces)
    _check_actions(processing.actions, spaces)


def _check_images(images: ImageProcessing, spaces: Spaces) -> None:
    shown = [camera for camera in images.cameras if camera.camera is not None]
    for camera in shown:
        if camera.camera not in spaces.cameras:
            raise RecipeError(
                f"the model's camera {camera.key} is to see the simulator's camera {camera.camera}, and the simulator shows "
                f"{', '.join(spaces.cameras) or 'none'}: set simulator.options.cameras, or processing.images.cameras"
            )
    if not shown:
        keys = ", ".join(camera.key for camera in images.cameras) or "none"
        raise RecipeError(
            f"no camera of the simulator ({', '.join(spaces.cameras) or 'none'}) is shown to the model (its cameras: {keys}): name a preset, such as "
            f"policy.options.preset=libero, or set processing.images.cameras=[{{key: ..., camera: ...}}]"
        )
    if not len(images.mean) == len(images.std) or len(images.mean) % 3 or not images.mean or 0 in images.std:
        raise RecipeError(f"processing.images.mean={images.mean} and std={images.std} must have three numbers each, or six, and std none that is 0")
    for camera in shown:
        if camera.camera and spaces.cameras[camera.camera][2] != 3:
            raise RecipeError(f"the simulator's camera {camera.camera} has {spaces.cameras[camera.camera][2]} channels, and the model sees 3")


def _check_state(processing: Processing, spaces: Spaces) -> None:
    state = processing.state
    in_prompt = processing.prompt.form == "task_state"
    if state.size is None and not in_prompt and not any(processing.actions.relative):
        return
    fed = _fed(state, spaces)
    if not fed:
        raise RecipeError("the model takes a state, and the simulator shows none")
    if state.size is not None and fed > state.size:
        raise RecipeError(f"the model takes {state.size} numbers of state at most, and {fed} are fed: choose some with processing.state.dimensions")
    _check_statistics(state.normalisation, range(fed), "state", fed, bool(state.dimensions))


def _check_actions(actions: ActionProcessing, spaces: Spaces) -> None:
    size = spaces.action.size
    dimensions = actions.dimensions or list(range(size))
    if len(dimensions) != size:
        raise RecipeError(f"processing.actions.dimensions={dimensions} gives {len(dimensions)} numbers, and the simulator's actions have {size}")
    if max(dimensions) >= actions.size or len(set(dimensions)) < size:
        raise RecipeError(f"processing.actions.dimensions={dimensions} must be different numbers below {actions.size}, the model's action dimensions")
    if len(actions.relative) > actions.size:
        raise RecipeError(f"processing.actions.relative has {len(actions.relative)} entries, more than the model's {actions.size} action dimensions")
    _check_statistics(actions.normalisation, dimensions, "actions", max(dimensions) + 1, bool(actions.dimensions))


def _check_statistics(how: Normalisation, dimensions: range | list[int], name: str, needed: int, chosen: bool) -> None:
    where = how.source or f"processing.{name}.normalisation"
    if how.method == "none":
        return
    if how.dimensions < needed:
        raise RecipeError(
            f"{where} has statistics of {how.dimensions} dimensions, and the simulator's {name} need {needed}: they are of another robot or data set. Give a "
            f"checkpoint for this simulator, or set processing.{name}.normalisation"
        )
    first, second = (how.mean, how.std) if how.method == "mean_std" else (how.low, how.high)
    beyond = [pair for pair in zip(first[needed:], second[needed:], strict=True) if pair not in PADDING[how.method]]
    if beyond and not chosen:
        raise RecipeError(
            f"{where} has statistics of {how.dimensions} dimensions, and the simulator's {name} have {needed}: they are of another robot or data set. Give a "
            f"checkpoint for this simulator, or choose with processing.{name}.dimensions which of them are meant"
        )
    for dimension in dimensions:
        if how.mask and not how.mask[dimension]:
            continue
        width = second[dimension] if how.method == "mean_std" else second[dimension] - first[dimension]
        if width < 0 or (width == 0 and how.constant == "refuse"):
            kind = "std" if how.method == "mean_std" else "range from low to high"
            value = second[dimension] if how.method == "mean_std" else f"{first[dimension]} to {second[dimension]}"
            raise RecipeError(
                f"{where}: the {kind} of dimension {dimension} is {value}, and must be above 0: such a number cannot be scaled. Set "
                f"processing.{name}.normalisation.mask to leave the dimension as it is, or give statistics of data in which it changes"
            )


def _fed(state: StateProcessing, spaces: Spaces) -> int:
    if not state.dimensions:
        return spaces.state
    if max(state.dimensions) >= spaces.state:
        raise RecipeError(f"processing.state.dimensions={state.dimensions} must be numbers below {spaces.state}, the size of the simulator's state")
    return len(state.dimensions)
