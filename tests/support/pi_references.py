"""Sizes and inputs of the reference runs of pi0 and pi0.5. Both libraries and our test use them. It imports numpy and torch alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.support.named_weights import named_normal

STEPS = 10


def sizes(variant: str) -> dict[str, Any]:
    """The sizes as rlvla3.policies.pi.options.PiModel has them. Two heads of keys and values, so that their sharing is tested too."""
    heads = {"layers": 3, "heads": 4, "key_value_heads": 2, "head_size": 16}
    return {
        "variant": variant,
        "vision": {"image": 42, "patch": 14, "width": 64, "layers": 2, "mlp_width": 96, "heads": 4},
        "language": {"width": 96, "mlp_width": 160, **heads},
        "expert": {"width": 64, "mlp_width": 112, **heads},
        "vocabulary": 300,
        "horizon": 6,
    }


def inputs() -> dict[str, Tensor]:
    """Three observations of two cameras. The second sees by one camera only, and has the shorter prompt; the third has no padding."""
    lengths = torch.tensor([[9], [4], [11]])
    tokens = (named_normal("tokens", 3, 11).abs() * 1000).long() % 300
    mask = torch.arange(11)[None] < lengths
    return {
        "images": named_normal("images", 3, 2, 3, 42, 42).clamp(-1, 1),
        "image_mask": torch.tensor([[True, True], [True, False], [True, True]]),
        "tokens": torch.where(mask, tokens, 0),
        "token_mask": mask,
        "state": named_normal("state", 3, 32),
        "noise": named_normal("noise", 3, 6, 32),
    }
