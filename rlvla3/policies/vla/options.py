"""The settings that all pretrained policies share. A family adds the sizes of its model, and its usual processing. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field as Bounded
from pydantic import model_validator

from rlvla3.choices import Precision
from rlvla3.config import PolicyConfig, Positive, PositiveFloat, Section
from rlvla3.errors import RecipeError
from rlvla3.policies.options import FlowOptions, PolicyOptions
from rlvla3.policies.vla.sizes import ModelSizes
from rlvla3.policies.vla.start import starting_options
from rlvla3.processing.fitting import check_fits
from rlvla3.processing.prompt_text import PromptText
from rlvla3.processing.specification import Processing
from rlvla3.types import Layout, Spaces

Part = Literal["vision", "language", "expert"]
"""The parts of a model that can be trained or frozen apart. `expert`: all that only actions use."""

PARTS: tuple[Part, ...] = ("vision", "language", "expert")


class LoRAOptions(Section):
    """Low-rank adapters beside the linear layers (Hu et al., "LoRA", arXiv 2106.09685). The layers themselves are frozen then."""

    rank: Positive = 16
    """Rank of the adapters."""

    alpha: Positive = 16
    """Their output is multiplied by alpha / rank."""

    parts: Annotated[list[Part], Bounded(min_length=1)] = ["language", "expert"]
    """The parts of the model that get adapters. What `train` names of the other parts is trained whole."""


class ValueOptions(Section):
    """The value function: a small network on features of the actor, detached, so that its loss does not change the actor."""

    features: Literal["prefix", "suffix"] = "prefix"
    """`prefix`: the mean of the encoded observation, as pi_RL has it for pi0.5. `suffix`: the mean of the action features, as pi_RL has it for pi0."""

    hidden: list[Positive] = [512, 256, 128]
    """Widths of the hidden layers."""


class VLAFlowOptions(FlowOptions):
    """Flow matching as a policy, with the settings of pi_RL (arXiv 2510.25889)."""

    method: Literal["last_step", "flow_noise", "flow_sde"] = "flow_sde"
    correlation: Annotated[float, Bounded(ge=0, lt=1)] = 0.0
    samples: Positive = 1
    time_exponent: PositiveFloat = 1 / 1.5
    """How the noise levels of cloning are drawn: uniform numbers to this power. 1 / 1.5 gives the authors' Beta(1.5, 1)."""


class VLAOptions(PolicyOptions):
    """Settings of a pretrained policy."""

    Pretrained = True

    LowPrecision = True

    CloneLearningRate = 2.5e-5

    Family: ClassVar[str]
    """The family's name in recipes."""

    Statistics: ClassVar[Literal["mean_std", "bounds", "quantiles"]] = "mean_std"
    """How cloning scales states and actions where no checkpoint says it. `bounds`: by minima and maxima. `quantiles`: by the 1st and the 99th percentile."""

    model: ModelSizes
    """The sizes of the network. They come from the checkpoint."""

    preset: Literal["libero", "metaworld", "maniskill", "droid"] | None = None
    """Processing that no checkpoint says: which camera is shown where, how frames are turned, which numbers form the state."""

    statistics: str | None = None
    """Which statistics are used, where a checkpoint has several: openpi's asset id, OpenVLA's data set, GR00T's embodiment."""

    processing: Processing
    """What the model is fed, and what is made of its answers. It comes from the checkpoint. What is written here wins."""

    train: list[Part] = ["expert"]
    """The parts of the model that are trained. The others stay as they are in the checkpoint, and are not sent on the weight plane."""

    lora: LoRAOptions | None = None
    """Low-rank adapters. With `null` the parts are trained whole."""

    precision: Precision = "auto"
    """Number format of the passes, in generators and in training alike. Trained weights, moments and log-probs are always fp32; frozen weights are kept in this
    format. `auto` is bf16 where torch has a GPU, and fp32 elsewhere. It decides for a pretrained policy: another `training.precision` is refused."""

    value: ValueOptions = ValueOptions()

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_has_moved(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "gradient_checkpointing" in given:
            raise ValueError("gradient_checkpointing is a setting of training now: leave it out here, and set training.gradient_checkpointing")
        return given

    @classmethod
    def starting(cls, config: PolicyConfig, spaces: Spaces) -> dict[str, Any]:
        return starting_options(config, spaces, cls.Family, cls.usual(config.size), cls.Statistics)

    @classmethod
    def usual(cls, size: Literal["published", "tiny"]) -> dict[str, Any]:
        """The options of a model without a checkpoint, as plain data."""
        raise NotImplementedError

    @property
    def horizon(self) -> int:
        """The actions that the model computes. A chunk is the first of them."""
        return self.model.horizon

    def horizon_of(self, chunk: int) -> int:
        return self.horizon

    def check_fed(self, spaces: Spaces, mirrored: Sequence[str]) -> None:
        processing, turn = self.processing, self.processing.images.turn
        check_fits(processing, spaces)
        if mirrored and turn in ("mirrored", "rotated"):
            raise RecipeError(
                f"frames would be mirrored twice: {mirrored[0]} has simulator.options.mirrored=true, and policy.options.processing.images.turn={turn}"
                f"{f' of preset {self.preset}' if self.preset else ''} exchanges left and right again. Leave simulator.options.mirrored out, or set "
                f"policy.options.processing.images.turn=none"
            )
        shown = sum(camera.camera is not None for camera in processing.images.cameras)
        PromptText(processing.prompt, shown).check(spaces.instructions, len(processing.state.dimensions) or spaces.state)

    def fixed_by_weights(self, spaces: Spaces, chunk: int) -> dict[str, Any]:
        """Cameras, chunk and the way of sampling may differ: the network is the same."""
        return {f"policy.options.{name}": value for name, value in self.model_dump(mode="json", include={"model", "lora", "value"}).items()}

    def check(self, spaces: Spaces, chunk: int) -> None:
        self.model.check()
        side = self.model.image_side
        if chunk > self.horizon:
            raise RecipeError(
                f"policy.chunk={chunk} is more than the {self.horizon} actions that {self.Family} computes at once: set it to {self.horizon} or less"
            )
        if self.processing.images.size != (side, side):
            raise RecipeError(
                f"policy.options.processing.images.size={list(self.processing.images.size)}, and the vision tower of {self.Family} sees images of "
                f"{side} x {side}: set it to [{side}, {side}], or policy.options.model to the checkpoint's sizes"
            )
        if spaces.action.kind != "continuous":
            raise RecipeError(f"policy {self.Family} gives continuous actions, and this simulator takes discrete ones: use policy.name=actor_critic")

    def precision_of(self, setting: Precision, on_gpu: bool) -> Literal["fp32", "bf16"]:
        if setting not in ("auto", self.precision):
            raise RecipeError(
                f"training.precision={setting}, and policy.options.precision={self.precision} decides for a pretrained policy, in generators and in training: "
                f"set policy.options.precision={setting}, and leave training.precision out"
            )
        return super().precision_of(self.precision, on_gpu)

    def check_training(self) -> None:
        if not self.train and self.lora is None:
            raise RecipeError(
                "policy.options.train=[] leaves nothing to train: name parts of the model, such as policy.options.train=[expert], or set policy.options.lora"
            )


class FlowVLAOptions(VLAOptions):
    """Settings of a pretrained policy that denoises its actions."""

    flow: VLAFlowOptions = VLAFlowOptions.model_validate({})
    """How denoising becomes a policy with log-probs."""

    def trace(self, spaces: Spaces, chunk: int) -> Layout:
        return self.flow.trace(self.horizon, self.processing.actions.size)

    def fixed_by_weights(self, spaces: Spaces, chunk: int) -> dict[str, Any]:
        return {**super().fixed_by_weights(spaces, chunk), "policy.options.flow.noise=learned": self.flow.noise == "learned"}

    def noise_shape(self, spaces: Spaces, chunk: int) -> tuple[int, ...]:
        return self.flow.noise_shape(self.horizon, self.processing.actions.size)
