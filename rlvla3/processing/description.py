"""Says in words and numbers what a policy is fed by a simulator, and what is made of its answers. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence

from rlvla3.processing.specification import ImageProcessing, Normalisation, Processing, PromptProcessing
from rlvla3.types import Spaces

TURNS = {"none": "as the simulator draws them", "flipped": "upside down", "mirrored": "left and right exchanged", "rotated": "turned by 180 degrees"}
RESIZES = {"pad": "black on both sides", "pad_corner": "black on the left and at the top", "stretch": "proportions changed"}
GRIPPERS = {
    "as_is": "as it is",
    "openvla": "0 (closed) to 1 (open) becomes +1 (closed) or -1 (open)",
    "threshold": "above 0.5 becomes +1, else -1",
    "sign": "becomes +1 above 0, and -1 below",
}
TEXTS = {
    "plain": "TEXT",
    "line": "TEXT\\n",
    "openpi_line": "TEXT\\n, with the line break as a token of its own",
    "task": "Task: TEXT;\\nAction: ",
    "task_state": "Task: TEXT, State: 0 ... 255;\\nAction: ",
    "openvla": "In: What action should the robot take to text?\\nOut:",
}

Sections = dict[str, list[str]]


def describe_processing(processing: Processing, spaces: Spaces) -> Sections:
    """Lines for a user, by the names of what they are about. Every number that is used is there."""
    state, actions = processing.state, processing.actions
    fed, executed = state.dimensions or list(range(spaces.state)), actions.dimensions or list(range(spaces.action.size))
    takes = f"padded with zeros to {state.size}" if state.size else "in the prompt alone" if processing.prompt.form == "task_state" else "not fed"
    relative = [dimension for dimension in executed if dimension < len(actions.relative) and actions.relative[dimension]]
    return {
        "cameras": _cameras(processing.images, spaces),
        "images": _images(processing.images),
        "prompt": _prompt(processing.prompt),
        "state": [f"{_numbers(fed)} of the simulator's {spaces.state}, {takes}", *_normalisation(state.normalisation, fed)],
        "actions": [
            f"dimensions {_numbers(executed)} of the model's {actions.size} are executed, clipped to {spaces.action.low:g} to {spaces.action.high:g}",
            f"dimensions {_numbers(relative)} are relative to the state" if relative else "none is relative to the state",
            f"gripper (the last one): {GRIPPERS[actions.gripper]}",
            *_normalisation(actions.normalisation, executed),
        ],
    }


def _cameras(images: ImageProcessing, spaces: Spaces) -> list[str]:
    lines = []
    for number, camera in enumerate(images.cameras, 1):
        if camera.camera is None:
            shown = "nothing (black, and masked)"
        else:
            height, width, _ = spaces.cameras[camera.camera]
            shown = f"{camera.camera}, {height} x {width} pixels"
        lines.append(f"{number}. {camera.key}: {shown}")
    return lines


def _images(images: ImageProcessing) -> list[str]:
    height, width = images.size
    lines = [f"frames {TURNS[images.turn]}"]
    if images.crop_before < 1:
        lines.append(f"the middle {images.crop_before:g} of each side")
    lines.append(f"resized to {height} x {width}, {RESIZES[images.resize]}, filter {images.filter}")
    if images.crop < 1:
        lines.append(f"the middle {images.crop:g} of the area, resized again")
    return [*lines, f"pixels from 0 to 1, minus {_short(images.mean)}, divided by {_short(images.std)}"]


def _prompt(prompt: PromptProcessing) -> list[str]:
    text = prompt.template if prompt.form == "template" else TEXTS[prompt.form]
    lines = [text, f"{prompt.length} tokens with padding, tokenizer {prompt.tokenizer}"]
    if prompt.state_size:
        lines.append(f"the state in it is padded to {prompt.state_size} numbers")
    return [*lines, "a longer prompt is cut"] if prompt.overlong == "cut" else lines


def _normalisation(how: Normalisation, used: Sequence[int]) -> list[str]:
    """The numbers of the dimensions that are used."""
    if how.method == "none":
        return ["not scaled"]
    first, second = (how.mean, how.std) if how.method == "mean_std" else (how.low, how.high)
    kind = "(x - mean) / std" if how.method == "mean_std" else "from low..high to -1..1"
    lines = [f"{kind}, from {how.source or 'the recipe'}" + (", clipped" if how.clip else "")]
    for dimension in used:
        if dimension >= len(first) or (how.mask and not how.mask[dimension]):
            lines.append(f"  {dimension:>2}  as it is")
        elif how.method == "mean_std":
            lines.append(f"  {dimension:>2}  mean {first[dimension]:>10.4g}  std {second[dimension]:>10.4g}")
        else:
            lines.append(f"  {dimension:>2}  {first[dimension]:>10.4g} to {second[dimension]:>10.4g}")
    return lines


def _numbers(dimensions: Sequence[int]) -> str:
    """0 to 6, or 0, 1, 2, 6."""
    if len(dimensions) > 2 and list(dimensions) == list(range(dimensions[0], dimensions[-1] + 1)):
        return f"{dimensions[0]} to {dimensions[-1]}"
    return ", ".join(map(str, dimensions)) or "none"


def _short(numbers: Sequence[float]) -> str:
    return f"{numbers[0]:g}" if len(set(numbers)) == 1 else ", ".join(f"{number:.4g}" for number in numbers)
