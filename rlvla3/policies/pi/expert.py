"""The action expert of pi0, pi0.5 and SmolVLA: it denoises chunks of actions, and reads the observation in the keys and values of the language model.

    partly denoised chunks, times -> tokens [B, M, T, E] -> Expert -> features [B, M, T, E]

Each layer attends in one of two ways. A self layer attends to the prefix's keys and values of the same layer, and to the tokens of its own chunk. A cross layer
(SmolVLA has them) attends to the prefix alone, through projections of its keys and values.

Invariant: the M chunks of an observation share its prefix, and do not see each other. So M chunks in one call give what M calls give.

Shapes: B observations, P prefix tokens, M chunks of an observation, T tokens of a chunk, E the width of the expert.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlvla3.policies.vla.decoder import DecoderLayer, KeysValues, Rope, Style, gated, make_norm, rotary
from rlvla3.policies.vla.sizes import DecoderSizes

View = tuple[Rope, Tensor]
"""Where the tokens stand and what they attend to: rotary positions and mask of DecoderLayer.forward."""


class Expert(nn.Module):
    """A stack of decoder layers and a final norm. Its parameters are `layers.N.*` and `norm.*`.

    condition: the width of what the norms depend on (pi0.5's time). None means plain norms.
    cross: which layers are cross layers, counted from 0. cross_width: key_value_heads * head_size of the language model, which these layers project.
    theta: the base of the rotary positions.
    """

    def __init__(
        self,
        sizes: DecoderSizes,
        style: Style,
        condition: int | None = None,
        cross: Sequence[int] = (),
        cross_width: int | None = None,
        theta: float = 10_000.0,
    ) -> None:
        super().__init__()
        self.head_size, self.theta, self.cross = sizes.head_size, theta, frozenset(cross)
        self.layers = nn.ModuleList(DecoderLayer(sizes, style, condition, cross_width if layer in self.cross else None) for layer in range(sizes.layers))
        self.norm = make_norm(sizes.width, style, condition)

    def forward(self, x: Tensor, keys_values: Sequence[KeysValues], prefix_mask: Tensor, allowed: Tensor, condition: Tensor | None = None) -> Tensor:
        """x: [B, M, T, E], the tokens of the chunks. keys_values: of the prefix, one pair for each layer. prefix_mask: bool [B, P], False for padding.

        allowed: bool [T, T], True where a token of a chunk (row) may attend to a token of the same chunk (column).
        condition: [B or 1, M, 1, condition]. Returns the features [B, M, T, E].
        """
        self_view = self._self_view(prefix_mask, allowed, x.shape[1])
        cross_view = self._cross_view(prefix_mask, x)
        for number, (layer, before) in enumerate(zip(self.layers, keys_values, strict=True)):
            rope, mask = cross_view if number in self.cross else self_view
            x, _ = layer(x, rope, mask, before, condition)
        features, _ = gated(self.norm, x, condition)
        return features

    def _self_view(self, prefix_mask: Tensor, allowed: Tensor, points: int) -> View:
        """In a self layer a chunk stands behind the prefix. Its positions go on where those of the prefix end, in every chunk alike."""
        tokens = len(allowed)
        positions = prefix_mask.sum(1, keepdim=True) + torch.arange(tokens, device=prefix_mask.device)
        blocks = torch.block_diag(*[allowed] * points) if points > 1 else allowed
        mask = torch.cat([prefix_mask[:, None].expand(-1, points * tokens, -1), blocks.expand(len(prefix_mask), -1, -1)], 2)
        return rotary(positions.repeat(1, points), self.head_size, self.theta), mask[:, None]

    def _cross_view(self, prefix_mask: Tensor, x: Tensor) -> View:
        """In a cross layer the positions of a chunk start from 0."""
        positions = torch.arange(x.shape[2], device=x.device).repeat(x.shape[1])[None]
        return rotary(positions, self.head_size, self.theta), prefix_mask[:, None, None]


def time_embedding(times: Tensor, width: int, min_period: float, max_period: float) -> Tensor:
    """times, from 0 to 1, of any shape [...] -> float32 [..., width]: sines, then cosines, with periods from `min_period` to `max_period` in even ratios.

    The angles are computed in float64, as the authors do: the shortest period, .004, makes angles of 1571, where float32 has steps of .0001.
    """
    share = torch.linspace(0, 1, width // 2, dtype=torch.float64, device=times.device)
    period = min_period * (max_period / min_period) ** share
    angle = times.double()[..., None] * (2 * math.pi / period)
    return torch.cat([angle.sin(), angle.cos()], -1).float()
