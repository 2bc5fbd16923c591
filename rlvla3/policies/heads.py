"""The interface of action heads. A head turns the outputs of a model into action chunks with log-probs.

A head knows nothing of images or transformers. It calls the model with points (partly denoised chunks) and times, as often as it needs to: flow matching once
for each denoising step, action tokens once.

Shapes: B decisions, M points of one decision in one call, C actions in a chunk, A action dimensions, E the width of the model's features. Chunks are in
normalised actions, from -1 to 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlvla3.types import ActionSpace

Model = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(points [B, M, C, A], times [1 or B, M]) -> (outputs [B, M, C, outputs], the features [B, M, C, E] that they were computed from)."""


class Sample(NamedTuple):
    """Sampled chunks: actions and logprob [B, C, A], and the trace that `evaluate` needs to compute the log-prob again.

    features: [B, C, E], those that the log-prob was computed from, their mean where the model was called several times.
    """

    actions: Tensor
    logprob: Tensor
    trace: dict[str, Tensor]
    features: Tensor


class Likelihood(NamedTuple):
    """Recorded chunks under the present weights: logprob and entropy [B, C, A], and the features [B, C, E] as in Sample."""

    logprob: Tensor
    entropy: Tensor
    features: Tensor


class ActionHead(nn.Module, ABC):
    """Turns the outputs of a model into chunks. `outputs`: how many numbers the model must output for each action of a chunk."""

    outputs: int

    @abstractmethod
    def sample(self, model: Model, noise: Tensor, explore: Tensor) -> Sample:
        """Chunks from standard normal noise [B, *noise_shape]. explore: bool [B]. Where it is False, the chunk has no exploration noise.

        The log-prob is always that of the exploring policy, so that `evaluate` agrees with it.
        """

    @abstractmethod
    def evaluate(self, model: Model, trace: Mapping[str, Tensor]) -> Likelihood:
        """The log-prob and the entropy of sampled chunks."""

    @abstractmethod
    def clone_loss(self, model: Model, actions: Tensor, generator: torch.Generator, counted: Tensor | None = None) -> Tensor:
        """The behaviour-cloning loss of expert chunks [B, C, A]: a scalar. counted: int64, the dimensions that count. None means all."""


@dataclass(frozen=True, slots=True)
class ActionScale:
    """Converts between a simulator's continuous actions, from low to high, and a head's actions, from -1 to 1."""

    space: ActionSpace

    def to_head(self, actions: Tensor) -> Tensor:
        """From a simulator's actions to a head's."""
        return (actions - self._middle) / self._half

    def to_simulator(self, actions: Tensor) -> Tensor:
        """From a head's actions to a simulator's: scaled, then clipped to the bounds."""
        return (actions * self._half + self._middle).clamp(self.space.low, self.space.high)

    @property
    def _middle(self) -> float:
        return (self.space.high + self.space.low) / 2

    @property
    def _half(self) -> float:
        return (self.space.high - self.space.low) / 2
