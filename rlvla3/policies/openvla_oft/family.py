"""The settings of OpenVLA-OFT in recipes. Nothing here imports torch."""

from __future__ import annotations

from typing import Any, Literal

from rlvla3.errors import RecipeError
from rlvla3.policies.openvla_oft.options import OpenVLAOFTModel
from rlvla3.policies.options import TokenOptions
from rlvla3.policies.vla.options import Part, ValueOptions, VLAOptions
from rlvla3.types import Layout, Spaces

IMAGENET = {"mean": [0.485, 0.456, 0.406, 0.5, 0.5, 0.5], "std": [0.229, 0.224, 0.225, 0.5, 0.5, 0.5]}
"""Each image is scaled once for DINOv2 and once for SigLIP."""

SPACE = 29871
"""The token that ends a prompt."""


class OpenVLAOFTOptions(VLAOptions):
    """Settings of OpenVLA-OFT (policies/openvla_oft/network.py)."""

    Family = "openvla_oft"
    CloneLearningRate = 2e-5
    Statistics = "quantiles"

    model: OpenVLAOFTModel = OpenVLAOFTModel()
    """The sizes of the network, and which head it has."""

    tokens: TokenOptions = TokenOptions()
    """How action tokens are drawn."""

    train: list[Part] = ["vision", "language", "expert"]
    value: ValueOptions = ValueOptions(features="suffix")

    def trace(self, spaces: Spaces, chunk: int) -> Layout:
        return self.tokens.trace(self.horizon, self.model.action_size) if self.model.head == "tokens" else {}

    def noise_shape(self, spaces: Spaces, chunk: int) -> tuple[int, ...]:
        return (self.horizon, self.model.action_size)

    def check(self, spaces: Spaces, chunk: int) -> None:
        if self.value.features == "prefix":
            raise RecipeError(
                "policy.options.value.features=prefix is not for openvla_oft, whose language model reads observation and actions at once: set suffix"
            )
        super().check(spaces, chunk)

    def check_training(self) -> None:
        super().check_training()
        if self.model.head == "l1":
            raise RecipeError(
                "policy.options.model.head=l1 has no log-probs, so it cannot be reinforced: write head: tokens, with a checkpoint that was trained for tokens, "
                "or use the policy for cloning and evaluation alone"
            )

    @classmethod
    def usual(cls, size: Literal["published", "tiny"]) -> dict[str, Any]:
        model = OpenVLAOFTModel.published() if size == "published" else OpenVLAOFTModel.tiny()
        side = model.dino.image
        prompt = {"length": 160} if size == "tiny" else {"length": 64, "tokenizer": "openvla/openvla-7b", "end": [SPACE]}
        return {
            "model": model.model_dump(),
            "processing": {
                "images": {"cameras": [{"key": "full_image"}], "size": [side, side], "resize": "stretch", "filter": "lanczos3", "crop": 0.9, **IMAGENET},
                "prompt": {"form": "openvla", "begin": "always", **prompt},
                "actions": {"size": model.action_size},
            },
        }
