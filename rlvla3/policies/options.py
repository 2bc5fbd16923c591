"""The settings of the policies, apart from the policies: nothing here imports torch, so a recipe is checked, and the data plane laid out, in an instant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field as Bounded
from pydantic import model_validator

from rlvla3.choices import Precision
from rlvla3.config import PolicyConfig, Positive, PositiveFloat, Section
from rlvla3.errors import RecipeError
from rlvla3.types import INSTRUCTION_BYTES, Field, Layout, Spaces


class PolicyOptions(Section):
    """Settings of a policy. A subclass also says what the policy records of each decision."""

    CloneLearningRate: ClassVar[float] = 1e-3
    """The learning rate of cloning where the recipe says none."""

    Pretrained: ClassVar[bool] = False
    """Whether the policy may start from a checkpoint of other software."""

    LowPrecision: ClassVar[bool] = False
    """Whether the policy can compute its passes in bf16 (`Policy.passes`)."""

    MismatchBounds: ClassVar[Mapping[str, float]] = {"fp32": 0.001, "bf16": 0.2}
    """The largest `sampler_mismatch_p99` of single actions that rounding explains: where everything computes and travels in fp32, and where something is bf16.
    docs/algorithms.md has the measurement."""

    @classmethod
    def starting(cls, config: PolicyConfig, spaces: Spaces) -> Mapping[str, Any]:
        """The settings of the policy that `config` names, as plain data: the recipe's own. Raises RecipeError."""
        if config.size == "tiny":
            raise RecipeError(f"policy.size=tiny is for pretrained policies, and {config.name} is none: leave policy.size out")
        return config.options

    def trace(self, spaces: Spaces, chunk: int) -> Layout:
        """The arrays, per decision, from which `evaluate` finds the log-prob again, beside the actions themselves."""
        return {}

    def mismatch_bound(self, number_format: Literal["fp32", "bf16"], level: Literal["chunk", "action", "dimension"], chunk: int) -> float:
        """The largest `sampler_mismatch_p99` that rounding explains, for ratios of one level. The log-ratio of a chunk is the sum of `chunk` actions'."""
        return self.MismatchBounds[number_format] * (chunk if level == "chunk" else 1)

    def noise_shape(self, spaces: Spaces, chunk: int) -> tuple[int, ...]:
        """The shape, per decision, of the standard normal noise that `act` is given: all of a policy's randomness comes from it."""
        return (chunk, spaces.action.size)

    def horizon_of(self, chunk: int) -> int:
        """H, how many actions the policy learns for each demonstrated observation. A pretrained policy computes more actions than its chunk."""
        return chunk

    def fixed_by_weights(self, spaces: Spaces, chunk: int) -> dict[str, Any]:
        """What a policy must have in common with a checkpoint to load its weights, by the names of settings."""
        return {
            "policy.chunk": chunk,
            "policy.options": self.model_dump(mode="json"),
            "cameras": dict(spaces.cameras),
            "state": spaces.state,
            "action": spaces.action,
        }

    def check(self, spaces: Spaces, chunk: int) -> None:
        """Raise RecipeError where a policy of these settings cannot be built for `spaces`."""

    def check_fed(self, spaces: Spaces, mirrored: Sequence[str]) -> None:
        """Raise RecipeError where the simulator cannot feed the policy, or cannot be driven by it: cameras, dimensions, statistics, prompts.

        mirrored: the simulators that exchange left and right in their frames.
        """

    def check_training(self) -> None:
        """Raise RecipeError where a policy of these settings cannot be improved by reinforcement learning."""

    def precision_of(self, setting: Precision, on_gpu: bool) -> Literal["fp32", "bf16"]:
        """The number format of the passes where `setting` is training.precision. Raises RecipeError where the policy cannot compute in that format."""
        if setting == "bf16" and not self.LowPrecision:
            raise RecipeError("training.precision=bf16, and this policy computes in fp32 only: leave training.precision at auto")
        if setting != "auto":
            return setting
        return "bf16" if on_gpu and self.LowPrecision else "fp32"


class FlowOptions(Section):
    """Flow matching as a policy: K denoising steps lead from noise to a chunk. Some steps add Gaussian noise, so that a chunk has a log-prob
    (policies/flow.py)."""

    method: Literal["last_step", "flow_noise", "flow_sde"] = "last_step"
    """Where noise is added. `last_step`: only in the last step; the gradient flows through all steps. `flow_noise`: in every step. `flow_sde`: in every step,
    by the stochastic differential equation that keeps the flow's marginals."""

    denoising_steps: Positive = 4
    """K, the number of denoising steps."""

    noise: PositiveFloat | Literal["learned"]
    """Standard deviation of the noise, in normalised actions. `learned` means that a small network sets it, within `noise_range`. For `flow_sde` it is the
    noise level of the equation, and cannot be learned."""

    noise_range: tuple[PositiveFloat, PositiveFloat] = (0.08, 0.16)
    """Smallest and largest standard deviation of learned noise."""

    steps: Literal["all", "one"] = "all"
    """`all`: every step of `flow_noise` or `flow_sde` is noisy, and the log-prob is over all of them. `one`: noise is added in one step of each chunk, chosen
    at random. Training then recomputes only that step."""

    correlation: Annotated[float, Bounded(ge=0, lt=1)] = 0.5
    """Correlation between the noises of any two actions of a chunk."""

    samples: Positive = 4
    """How many noise levels each demonstration is cloned at."""

    time_exponent: PositiveFloat = 0.7
    """How the noise levels of cloning are drawn: uniform numbers to this power. With less than 1, levels near the noise are drawn more often."""

    @model_validator(mode="before")
    @classmethod
    def _noise_as_the_method_has_it(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        usual = {"flow_noise": "learned", "flow_sde": 0.5}
        return {"noise": usual.get(str(given.get("method", cls.model_fields["method"].default)), 0.3), **given}

    @model_validator(mode="after")
    def _check_together(self) -> FlowOptions:
        if self.method == "flow_sde" and self.noise == "learned":
            raise ValueError("flow_sde sets its deviation by formula: write a noise level, for example noise: 0.5, or use method: flow_noise")
        if self.method == "last_step" and self.steps == "one":
            raise ValueError("last_step has noise in one step already: leave steps out, or use method: flow_noise or flow_sde")
        if self.noise_range[0] >= self.noise_range[1]:
            raise ValueError(f"noise_range={list(self.noise_range)} is empty: write the smaller deviation first, for example [0.08, 0.16]")
        return self

    def trace(self, chunk: int, action_size: int) -> Layout:
        """chain: where each Gaussian step set out from and where it arrived. step: which one it was, if it was drawn."""
        points = self.denoising_steps + 1 if self.noise_everywhere else 2
        chain = {"chain": Field((points, chunk, action_size), np.float32)}
        return chain | {"step": Field((), np.int32)} if self.steps == "one" else chain

    def noise_shape(self, chunk: int, action_size: int) -> tuple[int, ...]:
        """The chunk that denoising starts from, then one chunk for each noisy step, and with `one` a last one whose first number draws the step."""
        draws = self.denoising_steps if self.noise_everywhere else 1
        return (1 + draws + (self.steps == "one"), chunk, action_size)

    @property
    def noise_everywhere(self) -> bool:
        """Whether every denoising step of a chunk is noisy, or only one."""
        return self.method != "last_step" and self.steps == "all"


class TokenOptions(Section):
    """Actions as tokens, as in OpenVLA-OFT: each dimension has 256 bins."""

    temperature: PositiveFloat = 1.0
    """Temperature of the softmax from which tokens are drawn."""

    def trace(self, chunk: int, action_size: int) -> Layout:
        """tokens: the bin of each action and dimension."""
        return {"tokens": Field((chunk, action_size), np.int32)}


class MiniVLAOptions(PolicyOptions):
    """A small vision-language-action policy for learning from scratch (policies/mini_vla.py)."""

    LowPrecision = True

    head: Literal["flow", "tokens"] = "flow"
    """What produces actions: flow matching, or tokens."""

    flow: FlowOptions = FlowOptions.model_validate({})
    """Settings of the flow head."""

    tokens: TokenOptions = TokenOptions()
    """Settings of the token head."""

    width: Positive = 128
    """Width of the transformer that reads images, instruction and state."""

    layers: Positive = 3
    """Layers of that transformer."""

    expert_width: Positive = 96
    """Width of the action expert."""

    instruction_bytes: Annotated[int, Bounded(gt=0, le=INSTRUCTION_BYTES, multiple_of=8)] = 72
    """Length of the longest instruction in bytes. Every instruction is padded to it. 8 bytes make one token, and each token takes time, so keep it short."""

    def trace(self, spaces: Spaces, chunk: int) -> Layout:
        head = self.flow if self.head == "flow" else self.tokens
        return head.trace(chunk, spaces.action.size)

    def noise_shape(self, spaces: Spaces, chunk: int) -> tuple[int, ...]:
        return self.flow.noise_shape(chunk, spaces.action.size) if self.head == "flow" else (chunk, spaces.action.size)

    def check(self, spaces: Spaces, chunk: int) -> None:
        if not spaces.cameras:
            raise RecipeError("policy mini_vla sees by cameras, and this simulator has none: use policy.name=actor_critic")
        for camera, (height, width, _) in spaces.cameras.items():
            if any(side % 16 or not 64 <= side <= 224 for side in (height, width)):
                raise RecipeError(
                    f"policy mini_vla takes images whose sides are multiples of 16 from 64 to 224 pixels, and camera {camera} gives {height} x {width}: "
                    f"set the simulator's image size to {min(max(round(height / 16) * 16, 64), 224)}, or use policy.name=actor_critic"
                )
        longest = max(spaces.instructions, key=lambda text: len(text.encode()), default="")
        if (size := len(longest.encode())) > self.instruction_bytes:
            raise RecipeError(
                f"the instruction {longest!r} has {size} bytes, more than policy.options.instruction_bytes={self.instruction_bytes}: "
                f"set it to {-(-size // 8) * 8}"
            )
        if spaces.action.kind != "continuous":
            raise RecipeError("policy mini_vla gives continuous actions, and this simulator takes discrete ones: use policy.name=actor_critic")
        _check_bounds("mini_vla", spaces)


class ActorCriticOptions(PolicyOptions):
    """A small actor-critic for Gymnasium environments (policies/actor_critic.py). It normalises states and frames by running statistics."""

    MismatchBounds = {"fp32": 0.001, "bf16": 0.02}  # it never computes in bf16: only its weights may travel so

    hidden: Positive = 64
    """Width of the two layers of the actor, and of the critic."""

    image_features: Positive = 128
    """Size of the features that the shared image network gives to actor and critic."""

    std: PositiveFloat = 1.0
    """Standard deviation of the Gaussian at the start, in actions scaled to -1..1. Only continuous actions use it."""

    def trace(self, spaces: Spaces, chunk: int) -> Layout:
        """sample: the actions as they were drawn, before scaling and clipping to what the simulator accepts; for discrete actions, the choices."""
        return {"sample": Field((chunk, spaces.action.size), np.float32)}

    def check(self, spaces: Spaces, chunk: int) -> None:
        if not spaces.cameras and not spaces.state:
            raise RecipeError("policy actor_critic needs something to see, and this simulator shows neither a state nor an image")
        for camera, (height, width, _) in spaces.cameras.items():
            if min(height, width) < 32:
                raise RecipeError(f"policy actor_critic takes images of 32 x 32 pixels and more, and camera {camera} gives {height} x {width}")
        if spaces.action.kind == "discrete" and (spaces.action.size != 1 or spaces.action.choices < 2):
            raise RecipeError(f"policy actor_critic takes one discrete action of two or more choices, and this simulator has {spaces.action}")
        _check_bounds("actor_critic", spaces)


def _check_bounds(policy: str, spaces: Spaces) -> None:
    action = spaces.action
    if action.kind == "continuous" and not (math.isfinite(action.low) and math.isfinite(action.high) and action.low < action.high):
        raise RecipeError(
            f"policy {policy} scales its actions to the simulator's bounds, and these are {action.low} to {action.high}: "
            f"wrap the environment with gymnasium.wrappers.RescaleAction, or clip its action space"
        )
