"""The interface of a family's network: what a pretrained vision-language-action model computes, without processing, heads or log-probs.

A network encodes an observation once (`encode`). Then it decodes chunks from the encoded observation as often as the action head asks (`decode`).

Shapes: B observations, N cameras, L prompt tokens, S the padded state, P prefix tokens of width D, M points of one observation in one call, H the horizon
(actions that the network computes; a chunk is the first C of them), A the padded action dimensions, E the width of the features of an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from rlvla3.policies.vla.options import Part
from rlvla3.processing.inputs import Inputs

__all__ = ["Inputs", "Network", "Part", "Prefix"]


@dataclass(frozen=True)
class Prefix:
    """An encoded observation. Families extend it with what their `decode` needs, such as the keys and values of every layer.

    tokens: [B, P, D], the final hidden states. mask: bool [B, P], False for padding.
    """

    tokens: Tensor
    mask: Tensor

    def mean(self) -> Tensor:
        """The mean of the tokens that are not padding: [B, D]."""
        weight = self.mask[..., None].to(self.tokens)
        return (self.tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


PrefixT = TypeVar("PrefixT", bound=Prefix)


class Network(nn.Module, ABC, Generic[PrefixT]):
    """A family's network. Its parameters have the names of the family's published checkpoints, up to a prefix."""

    horizon: int
    """H."""
    action_size: int
    """A."""
    prefix_width: int
    """D."""
    feature_width: int
    """E."""

    @abstractmethod
    def encode(self, inputs: Inputs) -> PrefixT:
        """Encode observations. It is called once for each decision."""

    @abstractmethod
    def decode(self, prefix: PrefixT, points: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """points [B, M, H, A], times [1 or B, M] -> (outputs [B, M, H, outputs], the features [B, M, H, E] that they were computed from).

        The M points of an observation do not see each other. For flow matching the outputs are velocities (A of them), time 1 is noise and time 0 is action.
        For action tokens the outputs are logits.
        """

    @abstractmethod
    def part(self, name: Part) -> Sequence[nn.Module]:
        """The modules of a part. Together the parts hold every parameter of the network, and no parameter twice."""

    def unreached(self) -> Sequence[nn.Parameter]:
        """The parameters that no output of `decode` depends on. They are never trained: only a value function could reach them, and its input is detached."""
        return []

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights from `generator`, for a network without a checkpoint: normal with deviation 0.02, norms 1, biases 0."""
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=0.02, generator=generator)
                elif name == "bias":
                    nn.init.zeros_(parameter)
