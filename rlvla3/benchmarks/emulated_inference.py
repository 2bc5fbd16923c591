"""A policy whose inference waits for an additional, given time without using a core. This emulates inference on a GPU on a machine without one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rlvla3.config import NonNegativeFloat, PolicyConfig, PositiveFloat, Recipe
from rlvla3.policies.base import Decisions, Evaluation, Observations, Policy
from rlvla3.policies.options import PolicyOptions
from rlvla3.policies.registry import make_policy, policy_options
from rlvla3.policies.running_normalisation import RunningNormalisation
from rlvla3.types import Layout, Spaces


class EmulatedInferenceOptions(PolicyOptions):
    """Settings of a policy whose inference takes longer than it does on this machine."""

    inference_ms: PositiveFloat
    """Milliseconds that each inference waits, whatever the number of decisions."""

    each_ms: NonNegativeFloat = 0.0
    """Milliseconds that it waits in addition for each decision."""

    policy: PolicyConfig
    """The policy that decides. Its chunk is the recipe's."""

    def trace(self, spaces: Spaces, chunk: int) -> Layout:
        return policy_options(self.policy, spaces).trace(spaces, chunk)

    def noise_shape(self, spaces: Spaces, chunk: int) -> tuple[int, ...]:
        return policy_options(self.policy, spaces).noise_shape(spaces, chunk)

    def check(self, spaces: Spaces, chunk: int) -> None:
        policy_options(self.policy, spaces)


class EmulatedInference(Policy):
    """Another policy, except that `act` waits too. Training takes as long as with the other policy alone."""

    Options: ClassVar[type[PolicyOptions]] = EmulatedInferenceOptions
    options: EmulatedInferenceOptions

    def __init__(self, spaces: Spaces, chunk: int, options: EmulatedInferenceOptions) -> None:
        super().__init__(spaces, chunk, options)
        self.policy = make_policy(options.policy, spaces)

    def act(self, observations: Observations, noise: Tensor, explore: Tensor) -> Decisions:
        time.sleep((self.options.inference_ms + self.options.each_ms * len(observations)) / 1000)
        return self.policy.act(observations, noise, explore)

    def evaluate(self, observations: Observations, actions: Tensor, trace: Mapping[str, Tensor]) -> Evaluation:
        return self.policy.evaluate(observations, actions, trace)

    def value_of(self, features: Mapping[str, Tensor]) -> Tensor:
        return self.policy.value_of(features)

    def critic_parameters(self) -> list[nn.Parameter]:
        return self.policy.critic_parameters()

    def clone_loss(self, observations: Observations, actions: Tensor, generator: torch.Generator) -> Tensor:
        return self.policy.clone_loss(observations, actions, generator)

    def fit_normalisation(self, states: Tensor, actions: Tensor) -> None:
        self.policy.fit_normalisation(states, actions)

    def running_normalisations(self) -> Mapping[str, RunningNormalisation]:
        return self.policy.running_normalisations()


def with_inference(recipe: Recipe, inference_ms: float, each_ms: float = 0.0) -> Recipe:
    """`recipe` with a policy that waits `inference_ms` milliseconds in each inference, and `each_ms` more for each decision."""
    options: dict[str, Any] = {"inference_ms": inference_ms, "each_ms": each_ms, "policy": recipe.policy.model_dump(mode="json")}
    policy = PolicyConfig(name=f"{__name__}:{EmulatedInference.__name__}", chunk=recipe.policy.chunk, options=options)
    return recipe.model_copy(update={"policy": policy})
