"""The value function of pretrained policies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """The value of an observation, from features of the actor [B, width] and the share of the episode that is gone [B].

    It is the small network of pi_RL (arXiv 2510.25889), with two additions: features are normalised, because their scale differs between families, and the
    elapsed share is given, because a return within a time limit depends on it.
    """

    def __init__(self, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        widths = [width + 1, *hidden]
        layers = [layer for narrow, wide in pairwise(widths) for layer in (nn.Linear(narrow, wide), nn.SiLU())]
        self.layers = nn.Sequential(*layers, last := nn.Linear(widths[-1], 1))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, seen: Tensor, elapsed: Tensor) -> Tensor:
        value: Tensor = self.layers(torch.cat([self.norm(seen), elapsed[:, None]], -1))
        return value[:, 0]
