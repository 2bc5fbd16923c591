"""What is fed to a pretrained policy, and what is made of its answers, as data: cameras, images, state, prompt, actions.

Invariant: every number and every choice of the processing stands here, and comes from the checkpoint, from a named preset or from the recipe. processor.py
does what stands here and nothing else, and `rlvla3 inspect` prints it. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Literal

from rlvla3.config import Positive, Section

Turn = Literal["none", "flipped", "mirrored", "rotated"]
"""How frames are turned before they are fed. `flipped`: upside down. `mirrored`: left and right exchanged. `rotated`: both, which is 180 degrees."""


class Normalisation(Section):
    """How numbers are scaled, dimension by dimension. Dimensions beyond the lists stay as they are."""

    method: Literal["none", "mean_std", "bounds"] = "none"
    """`mean_std`: (x - mean) / (std + epsilon). `bounds`: 2 (x - low) / (high - low + epsilon) - 1; the bounds are minima and maxima or quantiles."""

    source: str = ""
    """Where the numbers come from: a file and its key, for messages and `inspect`."""

    mean: list[float] = []
    std: list[float] = []
    low: list[float] = []
    high: list[float] = []
    mask: list[bool] = []
    """Which dimensions are scaled. An empty list means all. OpenVLA's grippers are not."""

    epsilon: float = 0.0
    clip: bool = False
    """Whether scaled numbers are clipped to [-1, 1]."""


class CameraProcessing(Section):
    """One of the model's cameras."""

    key: str
    """What the checkpoint calls it, such as `observation.images.image` or `base_0_rgb`."""

    camera: str | None = None
    """The simulator's camera that is shown there. With `null` the model is shown no image there."""


class ImageProcessing(Section):
    """How a frame becomes what the vision tower sees, in this order: turned, cropped, resized, scaled."""

    cameras: list[CameraProcessing] = []
    turn: Turn = "none"
    size: tuple[Positive, Positive] = (224, 224)
    resize: Literal["pad", "stretch"] = "pad"
    """`pad` keeps the proportions and fills up with black."""


class StateProcessing(Section):
    """The proprioceptive state."""

    size: Positive | None = None
    """Numbers that the model takes: the state is padded with zeros to it. With `null` the model takes no state."""

    dimensions: list[int] = []
    """Which numbers of the simulator's state are fed, in order. An empty list means all."""

    normalisation: Normalisation = Normalisation()


class PromptProcessing(Section):
    """The text, and how it becomes tokens."""

    form: Literal["pi0", "pi05_state", "pi05", "openvla", "smolvla", "groot"]
    length: Positive = 48
    tokenizer: str = "bytes"
    """A folder with the tokenizer of the checkpoint, or `bytes` for the tokenizer of models of random weights."""


class ActionProcessing(Section):
    """From the model's numbers to the simulator's actions."""

    size: Positive = 32
    """Dimensions of an action in the model, with padding."""

    dimensions: list[int] = []
    """Which of them the simulator executes, in the simulator's order. An empty list means the first ones."""

    normalisation: Normalisation = Normalisation()
    relative: list[bool] = []
    """Which of the simulator's dimensions the model gives relative to the state."""

    gripper: Literal["as_is", "openvla"] = "as_is"
    """`openvla`: the last dimension is 0 for closed and 1 for open, and becomes +1 and -1."""


class Processing(Section):
    """All processing of a policy."""

    images: ImageProcessing
    state: StateProcessing
    prompt: PromptProcessing
    actions: ActionProcessing
