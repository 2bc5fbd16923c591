"""What is fed to a pretrained policy, and what is made of its answers, as data: cameras, images, state, prompt, actions.

Invariant: every number and every choice of the processing stands here, and comes from the checkpoint, from a named preset or from the recipe. processor.py
does what stands here and nothing else, and `rlvla3 inspect` prints it. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlvla3.config import NonNegative, NonNegativeFloat, Positive, Section
from rlvla3.config.section import LARGEST_FLOAT

Turn = Literal["none", "flipped", "mirrored", "rotated"]
"""How frames are turned before they are fed. `flipped`: upside down. `mirrored`: left and right exchanged. `rotated`: both, which is 180 degrees."""

KeptShare = Annotated[float, Field(gt=0, le=1)]


class Normalisation(Section):
    """How numbers are scaled, dimension by dimension. Dimensions beyond the lists stay as they are."""

    method: Literal["none", "mean_std", "bounds"] = "none"
    """`mean_std`: (x - mean) / std. `bounds`: 2 (x - low) / (high - low) - 1; the bounds are minima and maxima, or quantiles."""

    source: str = ""
    """Where the numbers come from: a file and its key, for messages and `inspect`."""

    mean: list[float] = []
    """Means, for `mean_std`."""

    std: list[float] = []
    """Standard deviations, for `mean_std`."""

    low: list[float] = []
    """Numbers that become -1, for `bounds`."""

    high: list[float] = []
    """Numbers that become 1, for `bounds`."""

    mask: list[bool] = []
    """Which dimensions are scaled. An empty list means all. OpenVLA's grippers are not."""

    epsilon: NonNegativeFloat = 0.0
    """A small number that keeps the division from failing."""

    epsilon_use: Literal["always", "scaling", "zero_range"] = "always"
    """`always`: epsilon is added to the deviation or to the range, and the inverse does the same. `scaling`: it is added, and the inverse leaves it out.
    `zero_range`: it takes the place of a range of 0."""

    double: bool = False
    """Whether it is computed in float64, as numpy does, or in float32."""

    clip: bool = False
    """Whether the result of scaling is clipped to [-1, 1], unscaled dimensions included."""

    constant: Literal["refuse", "zero"] = "refuse"
    """What is done with a dimension whose deviation or range is 0. `zero`: it is fed as 0, and scaled back it is always the same number, as GR00T has it."""

    @property
    def dimensions(self) -> int:
        """How many dimensions have numbers."""
        return {"none": 0, "mean_std": len(self.mean), "bounds": len(self.low)}[self.method]

    @model_validator(mode="after")
    def _check_lengths(self) -> Normalisation:
        for name in ("mean", "std", "low", "high"):
            if wrong := [number for number in getattr(self, name) if abs(number) > LARGEST_FLOAT]:
                raise ValueError(f"{name} has {wrong[0]:g}, and a number of it is from {-LARGEST_FLOAT:g} to {LARGEST_FLOAT:g}: float32 holds no larger one")
        pairs = {"mean_std": (self.mean, self.std), "bounds": (self.low, self.high), "none": ([], [])}
        first, second = pairs[self.method]
        if len(first) != len(second) or (self.method != "none" and not first):
            names = "mean and std" if self.method == "mean_std" else "low and high"
            raise ValueError(f"{names} have {len(first)} and {len(second)} numbers, and must have one for each dimension")
        if self.mask and len(self.mask) != len(first):
            raise ValueError(f"mask has {len(self.mask)} entries for {len(first)} dimensions: give one for each, or none")
        return self


class CameraProcessing(Section):
    """One of the model's cameras."""

    key: str
    """What the checkpoint calls it, such as `observation.images.image` or `base_0_rgb`."""

    known_as: str = ""
    """What the checkpoint says that data sets call it, if that differs."""

    camera: str | None = None
    """The simulator's camera that is shown there. With `null` the model is shown a black image there, and its mask says that there is no camera."""


class ImageProcessing(Section):
    """How a frame becomes what the vision tower sees, in this order: turned, cropped, resized, cropped again, scaled."""

    cameras: list[CameraProcessing] = []
    """The cameras in the order in which the model sees them."""

    empty: NonNegative | None = None
    """When a preset assigns cameras: how many of the model's cameras are kept at which nothing is shown. They are black and masked. With `null` all are."""

    turn: Turn = "none"
    """How frames are turned. `flipped`: upside down. `mirrored`: left and right exchanged. `rotated`: both, which is 180 degrees."""

    crop_before: KeptShare = 1.0
    """The share of each side that a centre crop before resizing keeps. GR00T keeps 0.95."""

    size: tuple[Positive, Positive] = (224, 224)
    """Height and width, in pixels."""

    resize: Literal["pad", "pad_corner", "stretch"] = "pad"
    """`pad` keeps the proportions, and fills up with black on both sides. `pad_corner` fills up on the left and at the top. `stretch` changes the
    proportions."""

    filter: Literal["bilinear", "pillow", "lanczos3", "torchvision", "torchvision_bicubic"] = "bilinear"
    """How pixels are interpolated. `bilinear`: between the four nearest pixels, as lerobot does. `pillow`: bilinear over all pixels that a new pixel covers,
    rounded to whole numbers, as the library Pillow does and openpi with it. `lanczos3`: as TensorFlow does with antialiasing, and OpenVLA with it; rounded.
    `torchvision`: bilinear over all covered pixels, cut down to whole numbers, as GR00T does with torchvision. `torchvision_bicubic`: bicubic, rounded, as
    lerobot does for GR00T."""

    crop: KeptShare = 1.0
    """The share of the area that a centre crop after resizing keeps; the crop is scaled back to `size`. OpenVLA keeps 0.9."""

    mean: list[float] = [0.5, 0.5, 0.5]
    """Pixels from 0 to 1 become (pixel - mean) / std, channel by channel. With six numbers, the model is shown each image twice, scaled differently."""

    std: list[float] = [0.5, 0.5, 0.5]
    """See `mean`."""


class StateProcessing(Section):
    """The proprioceptive state."""

    size: Positive | None = None
    """Numbers that the model takes: the state is padded with zeros to it. With `null` the model takes no state."""

    dimensions: list[NonNegative] = []
    """Which numbers of the simulator's state are fed, in order. An empty list means all."""

    normalisation: Normalisation = Normalisation()


PromptForm = Literal["plain", "line", "openpi_line", "task", "task_state", "openvla", "template"]


class PromptProcessing(Section):
    """The text, and how it becomes tokens."""

    form: PromptForm = "line"
    """`line`: the instruction and a line break, as lerobot has it for pi0 and SmolVLA. `openpi_line`: the same, without underscores and spaces around it, and
    with the line break as a token of its own. `task`: "Task: ...;\\nAction: ". `task_state`: "Task: ..., State: 12 255 ...;\\nAction: ", with each number of
    the normalised state as one of 256 steps, as pi0.5 has it. `openvla`: "In: What action should the robot take to ...?\\nOut:", with the instruction in small
    letters. `plain`: the instruction. `template`: as `template` says."""

    template: str = "{text}"
    """With `form: template`: the prompt, with {text} in place of the instruction. {list} stands for the instruction as Python writes a list of it, and {images}
    for what `image` says, once for each camera that is shown."""

    image: str = ""
    """With {images}: an image in the prompt, with {number} in place of its number from 1, and {tokens} in place of its image tokens."""

    image_token: NonNegative = 0
    """With {images}: the token that stands in the prompt for each token of the vision tower."""

    image_tokens: NonNegative = 0
    """With {images}: how many tokens the vision tower makes of an image."""

    end: list[NonNegative] = []
    """Tokens that follow the text. OpenVLA's prompts end with token 29871."""

    state_size: Positive | None = None
    """With `task_state`: the numbers of the state in the text. The normalised state is padded with zeros to it. With `null` it is not padded."""

    length: Positive = 48
    """Tokens of a prompt, with padding."""

    overlong: Literal["refuse", "cut"] = "refuse"
    """What is done with a prompt of more tokens. `cut` is what lerobot and openpi do: the end of the prompt is lost."""

    begin: Literal["tokenizer", "always", "never"] = "tokenizer"
    """Whether a prompt starts with the token of beginning. `tokenizer`: as the files of the tokenizer say."""

    tokenizer: str = "bytes"
    """A folder with tokenizer.json or tokenizer.model, or a name on the hub, or `bytes` for a tokenizer of bytes for models of random weights."""


class ActionProcessing(Section):
    """From the model's numbers to the simulator's actions, in this order: un-normalised, made absolute, chosen, gripper, clipped to the bounds."""

    size: Positive = 32
    """Dimensions of an action in the model, with padding."""

    dimensions: list[NonNegative] = []
    """Which of them the simulator executes, in the simulator's order. An empty list means the first ones."""

    normalisation: Normalisation = Normalisation()
    """How the numbers of an action are scaled back."""

    relative: list[bool] = []
    """Which of the model's dimensions are given relative to the fed state: the number of the state at the same place is added. An empty list means none."""

    gripper: Literal["as_is", "openvla", "threshold", "sign"] = "as_is"
    """How the last dimension of the simulator's actions is read. `openvla`: from 0, closed, to 1, open; becomes +1, closed, or -1, open. `threshold`: +1 above
    0.5, else -1. `sign`: +1 above 0, -1 below."""


class Processing(Section):
    """All processing of a policy."""

    images: ImageProcessing = ImageProcessing()
    state: StateProcessing = StateProcessing()
    prompt: PromptProcessing = PromptProcessing()
    actions: ActionProcessing = ActionProcessing()
