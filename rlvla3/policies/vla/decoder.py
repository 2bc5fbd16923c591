"""Decoder layers as Gemma and Llama have them. The language models and the action experts of pi0, pi0.5 and SmolVLA are made of them.

Invariants: a layer returns the keys and values of its own tokens, and never changes those that it is given. Norms and rotary positions are computed in
float32, whatever the weights and autocast say, as the authors do. No state hides in buffers, so a stack built on the meta device is complete once its
parameters are loaded. Parameters have the names of the published checkpoints.

Shapes: B observations, T tokens, P tokens before them, D the width, G heads of the queries, H heads of the keys and values, S the size of a head.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention, silu

from rlvla3.policies.vla.sizes import DecoderSizes

KeysValues = tuple[Tensor, Tensor]
"""The attention keys and values of one layer, each [B, H, T, S]. The keys are turned by their positions already."""

Rope = tuple[Tensor, Tensor]
"""Cosines and sines of rotary positions, each float32 [B or 1, 1, T, S / 2]."""


class Style(NamedTuple):
    """What differs between the two families of layers."""

    gemma: bool
    """Gemma scales a norm by 1 + weight and has GELU (tanh) in its MLP. Llama scales by the weight and has SiLU."""
    epsilon: float
    """Added to the mean square in a norm."""


GEMMA = Style(gemma=True, epsilon=1e-6)
LLAMA = Style(gemma=False, epsilon=1e-5)


class RMSNorm(nn.Module):
    """Divides each token by its root mean square, and scales it."""

    def __init__(self, width: int, style: Style) -> None:
        super().__init__()
        self.style = style
        self.weight = nn.Parameter(torch.empty(width))
        self.neutral()

    def neutral(self) -> None:
        """Scale 1."""
        nn.init.constant_(self.weight, 0.0 if self.style.gemma else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        scale = 1 + self.weight.float() if self.style.gemma else self.weight.float()
        return (_normalised(x, self.style.epsilon) * scale).to(x.dtype)


class AdaptiveRMSNorm(nn.Module):
    """adaRMS: an RMSNorm whose scale and shift depend on a condition. It also returns a gate for the branch that it stands before."""

    def __init__(self, width: int, condition: int, style: Style) -> None:
        super().__init__()
        self.style = style
        self.dense = nn.Linear(condition, 3 * width)
        self.neutral()

    def neutral(self) -> None:
        """Scale 1, shift 0 and gate 1 on average: an untrained layer is nearly a plain one, and gradients reach all of it."""
        nn.init.zeros_(self.dense.bias)
        nn.init.ones_(self.dense.bias[2 * len(self.dense.bias) // 3 :])

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x: [..., D]. condition: broadcastable to x but for the last dimension. Returns the scaled x and the gate."""
        scale, shift, gate = unrounded(self.dense, condition).chunk(3, -1)
        return (_normalised(x, self.style.epsilon) * (1 + scale) + shift).to(x.dtype), gate.to(x.dtype)


class Attention(nn.Module):
    """Attention with fewer heads of keys and values than of queries, and rotary positions.

    cross: where it is a width, the layer attends only to the tokens before its own. It projects their keys and values, of that width, once more.
    """

    def __init__(self, sizes: DecoderSizes, cross: int | None) -> None:
        super().__init__()
        self.head_size, self.cross = sizes.head_size, cross is not None
        queries, keys = sizes.heads * sizes.head_size, sizes.key_value_heads * sizes.head_size
        self.q_proj = nn.Linear(sizes.width, queries, bias=False)
        self.k_proj = nn.Linear(cross or sizes.width, keys, bias=False)
        self.v_proj = nn.Linear(cross or sizes.width, keys, bias=False)
        self.o_proj = nn.Linear(queries, sizes.width, bias=False)

    def forward(self, x: Tensor, rope: Rope, mask: Tensor | None, before: KeysValues | None) -> tuple[Tensor, KeysValues]:
        tokens = x.flatten(1, -2)
        query = turned(self._heads(self.q_proj(tokens)), rope)
        if self.cross:
            assert before is not None  # There is nothing else to attend to.
            key, value = (self._heads(project(_joined(part))) for project, part in zip((self.k_proj, self.v_proj), before, strict=True))
            own = key, value
        else:
            own = turned(self._heads(self.k_proj(tokens)), rope), self._heads(self.v_proj(tokens))
            key, value = own if before is None else (torch.cat([old.to(new), new], 2) for old, new in zip(before, own, strict=True))
        group = query.shape[1] // key.shape[1]
        attended = scaled_dot_product_attention(query, _repeated(key, group), _repeated(value, group), mask)
        out: Tensor = self.o_proj(_joined(attended))
        return out.view(x.shape), own

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, heads * S] -> [B, heads, T, S]."""
        heads: Tensor = x.unflatten(-1, (-1, self.head_size))
        return heads.transpose(1, 2)


class GatedMLP(nn.Module):
    """The MLP of a layer: one projection gates another."""

    def __init__(self, sizes: DecoderSizes, style: Style) -> None:
        super().__init__()
        self.activation = partial(gelu, approximate="tanh") if style.gemma else silu
        self.gate_proj = nn.Linear(sizes.width, sizes.mlp_width, bias=False)
        self.up_proj = nn.Linear(sizes.width, sizes.mlp_width, bias=False)
        self.down_proj = nn.Linear(sizes.mlp_width, sizes.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    """One layer: attention, then an MLP, each after a norm and beside a residual connection.

    condition: the width of what the norms depend on (adaRMS). None means plain norms. cross: see Attention.
    """

    def __init__(self, sizes: DecoderSizes, style: Style, condition: int | None = None, cross: int | None = None) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(sizes, cross), GatedMLP(sizes, style)
        self.input_layernorm = make_norm(sizes.width, style, condition)
        self.post_attention_layernorm = make_norm(sizes.width, style, condition)

    def forward(
        self, x: Tensor, rope: Rope, mask: Tensor | None, before: KeysValues | None = None, condition: Tensor | None = None
    ) -> tuple[Tensor, KeysValues]:
        """x: [B, ..., D]; all dimensions between the first and the last are tokens. before: keys and values that x attends to, in front of its own.

        mask: bool, broadcastable to [B, G, T, P + T] ([B, G, T, P] for cross-attention), False where a token does not attend. None means everywhere.
        condition: [B or 1, ..., condition], broadcastable to the tokens. Returns the new x, and its keys and values.
        """
        normed, gate = gated(self.input_layernorm, x, condition)
        attended, own = self.self_attn(normed, rope, mask, before)
        x = x + (attended if gate is None else attended * gate)
        normed, gate = gated(self.post_attention_layernorm, x, condition)
        hidden = self.mlp(normed)
        return x + (hidden if gate is None else hidden * gate), own


class LanguageModel(nn.Module):
    """A language model that reads a prefix: embeddings, layers, final norm."""

    def __init__(self, sizes: DecoderSizes, vocabulary: int, style: Style, theta: float = 10_000.0) -> None:
        super().__init__()
        self.head_size, self.theta = sizes.head_size, theta
        self.embed_tokens = nn.Embedding(vocabulary, sizes.width)
        self.layers = nn.ModuleList(DecoderLayer(sizes, style) for _ in range(sizes.layers))
        self.norm = RMSNorm(sizes.width, style)

    def forward(self, x: Tensor, mask: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, list[KeysValues]]:
        """x: [B, T, D], the embedded tokens. mask: bool [B, T], False for padding, which nobody attends to and which has no position.

        allowed: bool [T, T], True where a token (row) may attend to a token (column). None means everywhere.
        Returns the final tokens [B, T, D], and the keys and values of every layer.
        """
        rope = rotary(mask.cumsum(1) - 1, self.head_size, self.theta)
        # Padding attends to the others: a row without any key would be NaN.
        attends = mask[:, None, None] if allowed is None else _with_diagonal(mask[:, None, None] & allowed)
        keys_values = []
        for layer in self.layers:
            x, own = layer(x, rope, attends)
            keys_values.append(own)
        return self.norm(x), keys_values

    def unreached(self, last: int = -1) -> list[nn.Parameter]:
        """The parameters on which the final tokens depend, but no keys and values up to layer `last`: what stands behind those of that layer."""
        last %= len(self.layers)
        before = ("input_layernorm.", "self_attn.k_proj.", "self_attn.v_proj.")
        behind = [parameter for name, parameter in self.layers[last].named_parameters() if not name.startswith(before)]
        later = [parameter for layer in self.layers[last + 1 :] for parameter in layer.parameters()]
        return [*behind, *later, *self.norm.parameters()]


def make_norm(width: int, style: Style, condition: int | None) -> RMSNorm | AdaptiveRMSNorm:
    return RMSNorm(width, style) if condition is None else AdaptiveRMSNorm(width, condition, style)


def gated(norm: nn.Module, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The normed x, and the gate of an adaptive norm."""
    if condition is None:
        return norm(x), None
    normed, gate = norm(x, condition)
    return normed, gate


def rotary(positions: Tensor, head_size: int, theta: float) -> Rope:
    """The cosines and sines of positions [B or 1, T], for heads of `head_size` (Su et al., arXiv 2104.09864)."""
    exponent = torch.arange(head_size // 2, device=positions.device, dtype=torch.float32) * (2 / head_size)
    angle = positions[:, None, :, None].float() / theta**exponent
    return angle.cos(), angle.sin()


def turned(x: Tensor, rope: Rope) -> Tensor:
    """x [B, heads, T, S], turned by rotary positions. The two halves of a head hold the two numbers of each pair."""
    cos, sin = rope
    first, second = x.float().chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


def unrounded(linear: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer at the precision of its weights, also under autocast, as float32. The authors keep the small layers around the expert in float32."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = linear(x.to(linear.weight.dtype))
    return out.float()


def neutral_norms(network: nn.Module) -> None:
    """Give every norm of a network its starting value: it scales by 1, whatever memory it was built in."""
    for module in network.modules():
        if isinstance(module, RMSNorm | AdaptiveRMSNorm):
            module.neutral()
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()


def _normalised(x: Tensor, epsilon: float) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)


def _joined(x: Tensor) -> Tensor:
    """[B, heads, T, S] -> [B, T, heads * S]."""
    return x.transpose(1, 2).flatten(2)


def _repeated(x: Tensor, group: int) -> Tensor:
    """Keys or values for every head of the queries. A single head is not copied: the result is a view of it."""
    return x[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2)


def _with_diagonal(mask: Tensor) -> Tensor:
    """A mask [B, 1, T, T] under which each token attends to itself at least."""
    return mask | torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
