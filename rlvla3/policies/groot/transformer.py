"""The layers of GR00T's two transformers: self-attention over the prefix, and the denoiser (DiT), whose layers attend by turns to the prefix and to the chunk.

Source: the action head of GR00T N1.5 (github.com/NVIDIA/Isaac-GR00T), whose layers are those of diffusers. Modules have the names of the published checkpoint.
There is no dropout. The authors train with it, but then the log-prob of a chunk could not be computed again.

Shapes: B observations, P prefix tokens, M points of one observation, T tokens of a point, W the width of the transformer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention, silu

from rlvla3.policies.groot.options import GrootTransformer


def angles(values: Tensor, count: int, divisor: int) -> Tensor:
    """Values [...] times `count` frequencies from 1 down to about 1 / 10000: [..., count]. divisor: how many steps the whole range is divided into."""
    exponent = torch.arange(count, device=values.device, dtype=torch.float32) / divisor
    return values[..., None].float() * torch.exp(-math.log(10000) * exponent)


class Attention(nn.Module):
    """Multi-head attention. source: width of the tokens that are attended to."""

    def __init__(self, sizes: GrootTransformer, source: int) -> None:
        super().__init__()
        self.heads, width = sizes.heads, sizes.width
        self.to_q, self.to_k, self.to_v = nn.Linear(width, width), nn.Linear(source, width), nn.Linear(source, width)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def keys_values(self, source: Tensor) -> Tensor:
        """[B, tokens, source] -> [2, B, heads, tokens, head_size]."""
        return torch.stack([self._split(self.to_k(source)), self._split(self.to_v(source))])

    def forward(self, x: Tensor, keys_values: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: [B, tokens, W]. mask: bool, broadcastable to [B, heads, tokens, tokens attended to]."""
        attended = scaled_dot_product_attention(self._split(self.to_q(x)), keys_values[0], keys_values[1], mask)
        result: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return result

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with an approximated GELU between them. The place of the authors' dropout is kept, for the names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Widening(width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        after: Tensor = self.net(x)
        return after


class Widening(nn.Module):
    """The first layer of a feed-forward network, with its GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        return gelu(self.proj(x), approximate="tanh")


class PrefixLayer(nn.Module):
    """A layer of self-attention over the prefix."""

    def __init__(self, sizes: GrootTransformer) -> None:
        super().__init__()
        self.norm1, self.norm3 = nn.LayerNorm(sizes.width), nn.LayerNorm(sizes.width)
        self.attn1, self.ff = Attention(sizes, sizes.width), FeedForward(sizes.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, P, W]. mask: bool [B, 1, 1, P]."""
        normed = self.norm1(x)
        x = x + self.attn1(normed, self.attn1.keys_values(normed), mask)
        after: Tensor = x + self.ff(self.norm3(x))
        return after


class PrefixTransformer(nn.Module):
    """Self-attention over the prefix."""

    def __init__(self, sizes: GrootTransformer) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(PrefixLayer(sizes) for _ in range(sizes.layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, P, W]. mask: bool [B, 1, 1, P]."""
        for layer in self.transformer_blocks:
            x = layer(x, mask)
        return x


class AdaptiveNorm(nn.Module):
    """Layer norm whose scale and shift depend on the time (adaLN, Peebles & Xie, arXiv 2212.09748)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: [B, M, T, W]. time: [1 or B, M, W]."""
        scale, shift = self.linear(silu(time))[:, :, None].chunk(2, -1)
        scaled: Tensor = layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
        return scaled


class DenoiserLayer(nn.Module):
    """A layer of the denoiser. source: width of the prefix for a layer that attends to the prefix, None for one whose points attend to themselves."""

    def __init__(self, sizes: GrootTransformer, source: int | None) -> None:
        super().__init__()
        self.sees_prefix = source is not None
        self.norm1 = AdaptiveNorm(sizes.width)
        self.attn1, self.ff = Attention(sizes, source or sizes.width), FeedForward(sizes.width)

    def forward(self, x: Tensor, time: Tensor | None = None, prefix: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x: [B, M, T, W]. time: [1 or B, M, W]. prefix: its keys and values. mask: bool [B, 1, 1, P].

        Without a time, x is the prefix, [B, P, source], and the result is its keys and values [2, B, heads, P, head_size]. They are the same in all denoising
        steps, so they are computed once. FSDP gathers the weights of a layer when the layer is called, so this is no method of its own.
        """
        if time is None:
            return self.attn1.keys_values(x)
        normed = self.norm1(x, time)
        if self.sees_prefix:
            assert prefix is not None
            attended = self.attn1(normed.flatten(1, 2), prefix, mask)
        else:
            points = normed.flatten(0, 1)
            attended = self.attn1(points, self.attn1.keys_values(points))
        x = x + attended.view_as(x)
        after: Tensor = x + self.ff(layer_norm(x, x.shape[-1:]))
        return after


class TimeEmbedding(nn.Module):
    """Times in buckets, [...] -> [..., W]."""

    FREQUENCIES = 128

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(2 * self.FREQUENCIES, width), nn.Linear(width, width)

    def forward(self, buckets: Tensor, dtype: torch.dtype) -> Tensor:
        angle = angles(buckets, self.FREQUENCIES, self.FREQUENCIES - 1)
        time: Tensor = self.linear_2(silu(self.linear_1(torch.cat([angle.cos(), angle.sin()], -1).to(dtype))))
        return time


class Denoiser(nn.Module):
    """The diffusion transformer: tokens of partly denoised chunks -> features."""

    def __init__(self, sizes: GrootTransformer, source: int, features: int) -> None:
        super().__init__()
        width = sizes.width
        self.timestep_encoder = nn.ModuleDict({"timestep_embedder": TimeEmbedding(width)})
        self.transformer_blocks = nn.ModuleList(DenoiserLayer(sizes, source if index % 2 == 0 else None) for index in range(sizes.layers))
        self.proj_out_1 = nn.Linear(width, 2 * width)
        self.proj_out_2 = nn.Linear(width, features)

    def prefix(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """The keys and values of the prefix [B, P, source], for each layer that attends to it."""
        return tuple(layer(tokens) for layer in self.transformer_blocks if layer.sees_prefix)

    def forward(self, x: Tensor, buckets: Tensor, prefix: tuple[Tensor, ...], mask: Tensor) -> Tensor:
        """x: [B, M, T, W]. buckets: [1 or B, M]. prefix: from `prefix`. mask: bool [B, 1, 1, P]. Features: [B, M, T, features]."""
        time = self.timestep_encoder["timestep_embedder"](buckets, x.dtype)
        seen = iter(prefix)
        for layer in self.transformer_blocks:
            x = layer(x, time, next(seen), mask) if layer.sees_prefix else layer(x, time)
        shift, scale = self.proj_out_1(silu(time))[:, :, None].chunk(2, -1)
        features: Tensor = self.proj_out_2(layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
        return features
