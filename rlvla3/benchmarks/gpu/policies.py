"""The policies that are measured. All have random weights: time and memory do not depend on what a policy has learned.

pi0 has its published size. It sees one camera of 224 pixels and a prompt of 48 words, computes 5 actions at once and denoises in 4 steps. In training it learns
from one of these steps, as pi_RL does (arXiv 2510.25889).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rlvla3.config import PolicyConfig
from rlvla3.policies.base import Policy
from rlvla3.policies.pi.policy import Pi0
from rlvla3.policies.registry import make_policy
from rlvla3.types import ActionSpace, Spaces

CHUNK = 5
INSTRUCTION = "press the button from above"
EPISODE_STEPS = 100
STD, BLOCK = 0.02, 2**20
"""Weights are drawn with this deviation, in a block of so many numbers that is repeated."""


class RandomPi0(Pi0):
    """pi0 whose random weights are made in seconds. Drawing 3.5 billion numbers one by one takes a core a minute and more."""

    @torch.no_grad()
    def initialise(self) -> None:
        device = next(self.network.parameters()).device
        block = torch.randn(BLOCK, device=device) * STD
        for parameter in self.network.parameters():
            for part in parameter.view(-1).split(BLOCK):
                part.copy_(block[: len(part)])


@dataclass(frozen=True, slots=True)
class MeasuredPolicy:
    """A policy and what it sees. image: height and width of its camera in pixels. micro_batch: decisions of a training pass in real runs. epochs: passes over
    an update in real runs."""

    config: PolicyConfig
    image: int
    micro_batch: int = 128
    epochs: int = 3

    @property
    def spaces(self) -> Spaces:
        """One camera, four numbers of state, four of an action: as Meta-World has them."""
        camera = {"corner3": (self.image, self.image, 3)}
        return Spaces(camera, 4, ActionSpace("continuous", 4), EPISODE_STEPS, (INSTRUCTION,))

    def build(self, device: str) -> Policy:
        """The policy on the device. Its weights are made there, and not on the host."""
        torch.manual_seed(0)
        with torch.device(device):
            policy = make_policy(self.config, self.spaces).eval()
        policy.compute_in("auto", torch.device(device))
        return policy


def _mini(image: int, **options: Any) -> MeasuredPolicy:
    return MeasuredPolicy(PolicyConfig(name="mini_vla", chunk=CHUNK, options={"instruction_bytes": 32, **options}), image)


def _pi0(image: int, size: str = "published", **options: Any) -> MeasuredPolicy:
    model = {"model": {"horizon": CHUNK}} if size == "published" else {}
    processing = {
        "images": {"cameras": [{"key": "base_0_rgb", "camera": "corner3"}]},
        "prompt": {"form": "line", "length": 48, "tokenizer": "bytes"},
    }
    options = {"flow": {"steps": "one"}, "processing": processing, **model, **options}
    tree = {"name": f"{__name__}:{RandomPi0.__name__}", "chunk": CHUNK, "size": size, "options": options}
    return MeasuredPolicy(PolicyConfig.model_validate(tree), image, micro_batch=64, epochs=1)


_EVERY_PART = ["vision", "language", "expert"]

POLICIES: Mapping[str, MeasuredPolicy] = {
    "mini VLA 1.4 M": _mini(64),
    "mini VLA 30 M": _mini(128, width=512, layers=8, expert_width=288),
    "pi0 3.5 B": _pi0(224),
    "pi0 3.5 B, expert": _pi0(224),
    "pi0 3.5 B, all": _pi0(224, train=_EVERY_PART),
    "mini VLA, tiny": _mini(64, width=32, layers=1, expert_width=32),
    "pi0, tiny": _pi0(64, "tiny"),
    "pi0, tiny, expert": _pi0(64, "tiny"),
}
"""By name. "expert" and "all" say which part of pi0 is trained."""
