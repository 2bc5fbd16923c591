"""The settings of the policies, apart from the policies: nothing here imports torch, so a recipe is checked, and the data plane laid out, in an instant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field as Bounded
from pydantic import model_validator

from rlvla3.config import Positive, PositiveFloat, Section
from rlvla3.errors import RecipeError
from rlvla3.types import INSTRUCTION_BYTES, Field, Layout, Spaces


class PolicyOptions(Section):
    """What every policy's settings can say of its decisions."""

    def trace(self, spaces: Spaces, chunk: int) -> Layout:
        """The arrays, per decision, from which `evaluate` finds the log-prob again, beside the actions themselves."""
        return {}

    def noise_shape(self, spaces: Spaces, chunk: int) -> tuple[int, ...]:
        """The shape, per decision, of the standard normal noise that `act` is given: all of a policy's randomness comes from it."""
        return (chunk, spaces.action.size)

    def check(self, spaces: Spaces, chunk: int) -> None:
        """Raise RecipeError where a policy of these settings cannot be built for `spaces`."""


class FlowOptions(Section):
    """Flow matching as a policy: K denoising steps from noise to a chunk, some of them Gaussian, so that a chunk has a log-prob (policies/flow.py).

    method: `last_step` (noise in the last step alone, gradient through all steps), `flow_noise` (noise in every step) or `flow_sde` (the stochastic
    differential equation that keeps the flow's marginals). denoising_steps: K.
    noise: the standard deviation in normalised actions, or `learned` for one that a small network sets within noise_range; for `flow_sde` its noise level.
    Defaults: 0.3 for `last_step`, learned for `flow_noise`, 0.5 for `flow_sde`.
    steps: log-prob over `all` noisy steps, or noise in `one` step a chunk, chosen at random, which is all that training then recomputes.
    correlation: between the noises of any two actions of a chunk. samples: noise levels that each demonstration is cloned at.
    """

    method: Literal["last_step", "flow_noise", "flow_sde"] = "last_step"
    denoising_steps: Positive = 4
    noise: PositiveFloat | Literal["learned"]
    noise_range: tuple[PositiveFloat, PositiveFloat] = (0.08, 0.16)
    steps: Literal["all", "one"] = "all"
    correlation: Annotated[float, Bounded(ge=0, lt=1)] = 0.5
    samples: Positive = 4

    @model_validator(mode="before")
    @classmethod
    def _noise_as_the_method_has_it(cls, given: Any) -> Any:
        usual = {"flow_noise": "learned", "flow_sde": 0.5}
        return {"noise": usual.get(str(given.get("method")), 0.3), **given} if isinstance(given, Mapping) else given

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
    """Actions as tokens, the OpenVLA-OFT way: 256 bins a dimension. temperature: of the softmax they are drawn from."""

    temperature: PositiveFloat = 1.0

    def trace(self, chunk: int, action_size: int) -> Layout:
        """tokens: the bin of each action and dimension."""
        return {"tokens": Field((chunk, action_size), np.int32)}


class MiniVLAOptions(PolicyOptions):
    """A small vision-language-action policy for learning from scratch (policies/mini_vla.py).

    head: `flow` or `tokens`, with the settings of each beside it. width, layers: of the transformer that reads images, instruction and state.
    expert_width: of the action expert. instruction_bytes: the longest instruction, which every one is padded to; 8 bytes make a token, and a token takes time.
    """

    head: Literal["flow", "tokens"] = "flow"
    flow: FlowOptions = FlowOptions.model_validate({})
    tokens: TokenOptions = TokenOptions()
    width: Positive = 128
    layers: Positive = 3
    expert_width: Positive = 96
    instruction_bytes: Annotated[int, Bounded(gt=0, le=INSTRUCTION_BYTES, multiple_of=8)] = 72

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
    """A small actor-critic for Gymnasium problems (policies/actor_critic.py).

    hidden: the width of the two layers that each of actor and critic has. image_features: width of what the shared image network hands to both.
    std: the Gaussian's standard deviation at the start, in actions scaled to -1..1 (continuous actions).
    """

    hidden: Positive = 64
    image_features: Positive = 128
    std: PositiveFloat = 1.0

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
