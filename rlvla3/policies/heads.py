"""What an action head is: how the answers of a model become action chunks with log-probs.

A head knows nothing of images or transformers. It asks the model about points (partly denoised chunks) at times, as often as it needs:
flow matching once a denoising step, action tokens once in all.

Shapes: B decisions, M points of one decision asked about together, C actions a chunk, A action dimensions, E width of the model's features.
Chunks are in normalised actions, -1 to 1.
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
"""(points [B, M, C, A], times [1 or B, M]) -> (answers [B, M, C, outputs], the features [B, M, C, E] they were read from)."""


class Sample(NamedTuple):
    """Sampled chunks: actions and logprob [B, C, A], and what `evaluate` needs to find the log-prob again."""

    actions: Tensor
    logprob: Tensor
    trace: dict[str, Tensor]


class ActionHead(nn.Module, ABC):
    """Chunks out of a model's answers. `outputs`: how many numbers the model must answer with for each action of a chunk."""

    outputs: int

    @abstractmethod
    def sample(self, model: Model, noise: Tensor, explore: Tensor) -> Sample:
        """Chunks from standard normal noise [B, *noise_shape]; where explore, bool [B], is False, free of exploration noise.

        The log-prob is in both cases that of the exploring policy, so that `evaluate` agrees with it.
        """

    @abstractmethod
    def evaluate(self, model: Model, trace: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The log-prob and the entropy of sampled chunks, each [B, C, A]."""

    @abstractmethod
    def clone_loss(self, model: Model, actions: Tensor, generator: torch.Generator) -> Tensor:
        """The behaviour-cloning loss of expert chunks [B, C, A], a scalar."""


@dataclass(frozen=True, slots=True)
class ActionScale:
    """Between a simulator's continuous actions, low to high, and a head's, -1 to 1."""

    space: ActionSpace

    def to_head(self, actions: Tensor) -> Tensor:
        """A simulator's actions as a head has them."""
        return (actions - self._middle) / self._half

    def to_simulator(self, actions: Tensor) -> Tensor:
        """A head's actions as a simulator accepts them: scaled, then clipped to the bounds."""
        return (actions * self._half + self._middle).clamp(self.space.low, self.space.high)

    @property
    def _middle(self) -> float:
        return (self.space.high + self.space.low) / 2

    @property
    def _half(self) -> float:
        return (self.space.high - self.space.low) / 2
