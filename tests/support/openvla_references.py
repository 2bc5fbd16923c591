"""Sizes, weights and inputs of the reference runs of OpenVLA-OFT. The authors' code and our tests use them. It imports numpy and torch alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.support.named_weights import named_normal, named_weights

ACTION_TOKENS = slice(31744, 32000)
"""Rows of the language head that stand for actions. The authors' code takes the best of all tokens, so the others get logit 0 here."""

LAST_BIAS = "action_head.model.fc2.bias"

EMPTY_TOKEN = 29871
"""The authors' code adds it to every prompt."""

HEAD = "language_model.lm_head.weight"
INSTRUCTIONS = ("pick up the black bowl", "Open the drawer", "turn on the stove and put the moka pot on it")


def sizes(head: str) -> dict[str, Any]:
    """The sizes as rlvla3.policies.openvla_oft.options.OpenVLAOFTModel has them. The ids of tokens stand in the authors' code, so the vocabulary is whole."""
    return {
        "head": head,
        "dino": {"image": 42, "patch": 14, "width": 32, "layers": 3, "mlp_width": 128, "heads": 16},
        "siglip": {"image": 42, "patch": 14, "width": 48, "layers": 3, "mlp_width": 96, "heads": 16},
        "language": {"width": 32, "layers": 3, "mlp_width": 80, "heads": 4, "key_value_heads": 4, "head_size": 8},
        "state_size": 8 if head == "l1" else None,
    }


def cameras(head: str) -> int:
    return 2 if head == "l1" else 1


def weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    made = named_weights(state)
    if HEAD in made:
        actions = made[HEAD][ACTION_TOKENS].mul(4)
        made[HEAD] = torch.zeros_like(made[HEAD])
        made[HEAD][ACTION_TOKENS] = actions
    if LAST_BIAS in made:
        made[LAST_BIAS][-1] += 0.5  # so that grippers open and close
    return made


def inputs(head: str) -> dict[str, Tensor]:
    """Three observations with prompts of different lengths, padded on the right. Images: each one scaled in two ways."""
    lengths = torch.tensor([[9], [4], [12]])
    mask = torch.arange(12)[None] < lengths
    tokens = (named_normal("tokens", 3, 12).abs() * 10000).long() % 29000 + 3
    tokens[:, 0] = 1
    tokens[torch.arange(3), lengths[:, 0] - 1] = EMPTY_TOKEN
    return {
        "images": named_normal("images", 3, cameras(head), 6, 42, 42),
        "image_mask": torch.ones(3, cameras(head), dtype=torch.bool),
        "tokens": torch.where(mask, tokens, 0),
        "token_mask": mask,
        "state": named_normal("state", 3, 8).clamp(-1, 1),
    }


DATASET = "libero_spatial_no_noops"
OBSERVED = 2
"""Raw observations of the reference run from observations to actions."""


def observed_sizes() -> dict[str, Any]:
    """The sizes for raw observations: the authors' code shows the network images of 224 x 224 pixels, so its patches are large here."""
    large = {"image": 224, "patch": 56}
    return {name: {**part, **large} if name in ("dino", "siglip") else part for name, part in sizes("l1").items()}


def statistics() -> dict[str, Any]:
    """What dataset_statistics.json holds."""

    def numbers(name: str, size: int, mask: list[bool]) -> dict[str, Any]:
        low, width = -named_normal(f"{name} low", size).abs() - 0.1, named_normal(f"{name} width", size).abs() + 0.5
        bounds = {"q01": low, "q99": low + width, "min": low - 1, "max": low + width + 1, "mean": low + width / 2, "std": width / 3}
        return {**{key: tensor.double().tolist() for key, tensor in bounds.items()}, "mask": mask}

    action, proprio = numbers("action", 7, [True] * 6 + [False]), numbers("proprio", 8, [True] * 8)
    return {DATASET: {"action": action, "proprio": proprio, "num_transitions": 100, "num_trajectories": 2}}


def frames(camera: str) -> Tensor:
    """Raw frames, uint8 [B, 256, 256, 3], the right way up for the network: patches of one colour, with some noise."""
    patches = named_normal(f"{camera} patches", OBSERVED, 16, 16, 3).repeat_interleave(16, 1).repeat_interleave(16, 2)
    return (128 + 50 * patches + 4 * named_normal(f"{camera} noise", OBSERVED, 256, 256, 3)).clamp(0, 255).to(torch.uint8)


def states() -> Tensor:
    """Raw states, float32 [B, 8]. Some numbers lie outside of the quantiles."""
    return named_normal("raw state", OBSERVED, 8)
