"""What goes into processing, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Observed(Protocol):
    """A batch of B observations, as simulators show them.

    images: {camera: uint8 [B, H, W, channels]}. state: float32 [B, S]. instructions: one for each observation.
    """

    @property
    def images(self) -> Mapping[str, Tensor]: ...
    @property
    def state(self) -> Tensor: ...
    @property
    def instructions(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a network is fed. B observations, N cameras, L prompt tokens, S the padded state.

    images: float32 [B, N, channels, height, width], scaled as the family's vision tower expects. image_mask: bool [B, N], False where there is no such camera.
    tokens: int64 [B, L], the prompt. token_mask: bool [B, L]. state: float32 [B, S], normalised, and padded with zeros. S is 0 for a model without a state.
    """

    images: Tensor
    image_mask: Tensor
    tokens: Tensor
    token_mask: Tensor
    state: Tensor

    def __len__(self) -> int:
        return len(self.tokens)
