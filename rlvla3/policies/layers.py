"""The layers of the mini VLA: the image stem, the blocks of the prefix, the action expert and the critic.

Shapes: B observations, P prefix tokens of width D, M chunks of one observation, C actions in a chunk, E the width of the action expert.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

HEADS = 4
HEAD_SIZE = 32
ATTENTION = HEADS * HEAD_SIZE

KeysValues = tuple[Tensor, Tensor]
"""The attention keys and values of one layer, each [B, HEADS, P, HEAD_SIZE]."""


class ImageStem(nn.Module):
    """From images, uint8 [B, H, W, channels], to image tokens [B, tokens, D]: 16 tokens for 64 x 64 pixels, at most 49 tokens.

    It is convolutional. A transformer of this size on patches of 16 pixels did not learn to see a target of a few pixels.
    """

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        height, breadth, channels = shape
        layers: list[nn.Module] = [nn.Conv2d(channels, 48, 5, 4, 2), nn.GroupNorm(8, 48), nn.SiLU()]
        rows, columns, features = height // 4, breadth // 4, 48
        for _ in range(2 if max(height, breadth) > 112 else 1):
            layers += [nn.Conv2d(features, 128, 3, 2, 1), nn.GroupNorm(8, 128), nn.SiLU()]
            rows, columns, features = -(-rows // 2), -(-columns // 2), 128
        if rows % 2 or columns % 2:
            layers.append(nn.ZeroPad2d((0, columns % 2, 0, rows % 2)))
        self.features = nn.Sequential(*layers, nn.PixelUnshuffle(2))
        self.projection = nn.Linear(4 * features, width)
        self.position = nn.Parameter(torch.randn(1, -(-rows // 2) * -(-columns // 2), width) * 0.02)

    def forward(self, image: Tensor) -> Tensor:
        # The permuted view is a channels-last image, the fastest layout for convolutions on a CPU.
        pixels = image.permute(0, 3, 1, 2).to(self.position.dtype).div_(127.5).sub_(1)
        tokens: Tensor = self.projection(self.features(pixels).flatten(2).transpose(1, 2))
        return tokens + self.position


class PrefixBlock(nn.Module):
    """A transformer layer over the prefix, with full attention. It returns its keys and values too, for the action expert."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * ATTENTION), nn.Linear(ATTENTION, width)
        self.mlp = _mlp(width)

    def forward(self, x: Tensor) -> tuple[Tensor, KeysValues]:
        query, key, value = _split_heads(self.qkv(self.norm(x)), 3)
        x = x + self.out(_join_heads(scaled_dot_product_attention(query, key, value)))
        return x + self.mlp(self.mlp_norm(x)), (key, value)


class ExpertBlock(nn.Module):
    """A transformer layer over the actions of a chunk, which attend to each other and to the prefix.

    Time modulates it (adaLN, Peebles & Xie, arXiv 2212.09748).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(width, 3 * ATTENTION), nn.Linear(ATTENTION, width)
        self.mlp = _mlp(width)

    def forward(self, x: Tensor, modulation: Tensor, prefix: KeysValues, mask: Tensor | None) -> Tensor:
        """x: [B, M, C, E]. modulation: [1 or B, M, 1, 6 E]. mask: bool [M * C, P + M * C], what each action attends to. None means everything."""
        scale, shift, gate, mlp_scale, mlp_shift, mlp_gate = modulation.chunk(6, -1)
        query, key, value = _split_heads(self.qkv(self.norm(x) * (1 + scale) + shift).flatten(1, 2), 3)
        key, value = torch.cat([prefix[0], key], 2), torch.cat([prefix[1], value], 2)
        attended = _join_heads(scaled_dot_product_attention(query, key, value, mask))
        x = x + (1 + gate) * self.out(attended.view(*x.shape[:3], ATTENTION))
        after: Tensor = x + (1 + mlp_gate) * self.mlp(self.norm(x) * (1 + mlp_scale) + mlp_shift)
        return after


class Expert(nn.Module):
    """The action expert: from partly denoised chunks, their times, and the keys and values of the prefix, to features of each action."""

    frequencies: Tensor

    def __init__(self, action_size: int, chunk: int, width: int, layers: int) -> None:
        super().__init__()
        self.action, self.position = nn.Linear(action_size, width), nn.Parameter(torch.randn(1, 1, chunk, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, layers * 6 * width)
        self.blocks = nn.ModuleList(ExpertBlock(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, 6, 32)), persistent=False)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, points: Tensor, times: Tensor, prefix: list[KeysValues]) -> Tensor:
        """points [B, M, C, A], times [1 or B, M] -> features [B, M, C, E]. The M chunks of an observation do not attend to each other."""
        angle = times[..., None, None] * self.frequencies
        modulations = self.modulation(self.time(torch.cat([angle.sin(), angle.cos()], -1))).chunk(len(self.blocks), -1)
        x = self.action(points) + self.position
        mask = _attention_mask(points.shape[1], points.shape[2], prefix[0][0].shape[2], points.device)
        for block, modulation, seen in zip(self.blocks, modulations, prefix, strict=True):
            x = block(x, modulation, seen, mask)
        features: Tensor = self.norm(x)
        return features


class Critic(nn.Module):
    """The value of an observation, from its prefix tokens [B, P, D] and its state [B, S]. Attention pools the tokens; its query depends on the elapsed time."""

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.query = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, ATTENTION))
        self.norm, self.keys_values = nn.LayerNorm(width), nn.Linear(width, 2 * ATTENTION)
        self.value = nn.Sequential(nn.Linear(ATTENTION + width + state, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), last := nn.Linear(128, 1))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, tokens: Tensor, state: Tensor, elapsed: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        (query,) = _split_heads(self.query(torch.stack([elapsed, elapsed**2], -1))[:, None], 1)
        key, value = _split_heads(self.keys_values(tokens), 2)
        pooled = _join_heads(scaled_dot_product_attention(query, key, value))[:, 0]
        values: Tensor = self.value(torch.cat([pooled, tokens[:, -1], state], -1))
        return values[:, 0]


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))


def _split_heads(x: Tensor, parts: int) -> tuple[Tensor, ...]:
    """[B, tokens, parts * ATTENTION] -> `parts` of [B, HEADS, tokens, HEAD_SIZE]."""
    return tuple(part.unflatten(-1, (HEADS, HEAD_SIZE)).transpose(1, 2) for part in x.chunk(parts, -1))


def _join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _attention_mask(samples: int, chunk: int, prefix: int, device: torch.device) -> Tensor | None:
    """A mask under which each action attends to the prefix and to its own chunk. None for one chunk, which needs no mask."""
    if samples == 1:
        return None
    owner = torch.arange(samples, device=device).repeat_interleave(chunk)
    return torch.cat([owner.new_ones(len(owner), prefix, dtype=torch.bool), owner[:, None] == owner], 1)
