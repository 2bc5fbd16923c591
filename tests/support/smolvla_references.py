"""Sizes, inputs and weights of the reference runs of SmolVLA, which lerobot's code and our tests use. It imports numpy and torch alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.support.named_weights import named_normal, named_weights

STEPS = 10

CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "special_tokens": {"image_start": [61, 62], "image_end": [61]},
    "self_attention": {"self_attention_every": 1},
    "third_self_attention": {"self_attention_every": 3},
    "half_expert": {"self_attention_every": 0, "expert_layers": 2},
}
"""The structures that lerobot's settings allow, as differences from the published structure."""


def sizes(case: str) -> dict[str, Any]:
    """The sizes as rlvla3.policies.pi.smolvla_options.SmolVLAModel has them. The expert is three quarters as wide as the language model, as published."""
    changes = dict(CASES[case])
    layers, heads = changes.pop("expert_layers", 4), {"heads": 4, "key_value_heads": 2, "head_size": 16}
    return {
        "vision": {"image": 32, "patch": 4, "width": 24, "layers": 2, "mlp_width": 40, "heads": 2},
        "shuffle": 4,
        "language": {"width": 64, "layers": 4, "mlp_width": 96, **heads},
        "expert": {"width": 48, "layers": layers, "mlp_width": 256, **heads},
        "vocabulary": 64,
        "horizon": 6,
        **changes,
    }


def inputs() -> dict[str, Tensor]:
    """Three observations of two cameras. The second sees by one camera only, and has the shorter prompt; the third has no padding."""
    tokens, mask = (named_normal("tokens", 3, 9).abs() * 1000).long() % 64, torch.arange(9)[None] < torch.tensor([[7], [4], [9]])
    return {
        "images": named_normal("images", 3, 2, 3, 32, 32).clamp(-1, 1),
        "image_mask": torch.tensor([[True, True], [True, False], [True, True]]),
        "tokens": torch.where(mask, tokens, 2),
        "token_mask": mask,
        "state": named_normal("state", 3, 32),
        "noise": named_normal("noise", 3, 6, 32),
    }


def weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A random weight for every tensor. The norms of Llama scale by their weight, so it is around 1."""
    llama = ("input_layernorm.weight", "post_attention_layernorm.weight", "text_model.norm.weight", "lm_expert.norm.weight")
    return {name: tensor + name.endswith(llama) for name, tensor in named_weights(state).items()}
