"""The sizes of OpenVLA-OFT's network. Nothing here imports torch."""

from __future__ import annotations

from typing import Literal

from rlvla3.config import NonNegative, Positive, PositiveFloat
from rlvla3.errors import RecipeError
from rlvla3.policies.vla.sizes import DecoderSizes, ModelSizes, VisionSizes, check_decoder, check_vision

ACTION_TOKENS = 256
"""Tokens of the vocabulary that stand for an action: the last ones before the vocabulary's filling."""

Head = Literal["tokens", "l1"]


class OpenVLAOFTModel(ModelSizes):
    """The network of OpenVLA-OFT (arXiv 2502.19645)."""

    head: Head = "tokens"
    """`tokens`: each dimension of an action is one of 256 tokens, as reinforcement learning needs it. `l1`: a regression head gives the actions, as in the
    authors' checkpoints for LIBERO; they are deterministic, so such a policy can be cloned and evaluated, but not reinforced."""

    dino: VisionSizes = VisionSizes(image=224, patch=14, width=1024, layers=24, mlp_width=4096, heads=16)
    """The vision tower DINOv2, with 4 register tokens. The last layer is not used: the features are those of the layer before."""

    siglip: VisionSizes = VisionSizes()
    """The vision tower SigLIP. Its last layer is not used either."""

    language: DecoderSizes = DecoderSizes(width=4096, layers=32, mlp_width=11008, heads=32, key_value_heads=32, head_size=128)
    """The language model: Llama 2 7B."""

    vocabulary: Positive = 32064
    """Rows of the language model's embedding."""

    filling: NonNegative = 64
    """Rows at the end of the vocabulary that no token uses. The 256 tokens before them are the actions."""

    norm_epsilon: PositiveFloat = 1e-6
    """What the language model's norms add to the mean square."""

    rope_theta: PositiveFloat = 10_000.0
    """The base of the rotary positions' periods."""

    state_size: Positive | None = None
    """Numbers of the state, which a small network makes one token of. With `null` the model sees no state."""

    horizon: Positive = 8
    """Number of actions that the network computes at once. The authors have 8 for LIBERO, 25 for ALOHA and 5 for BridgeData."""

    action_size: Positive = 7
    """Dimensions of an action."""

    stop_token: bool = True
    """Whether a stop token follows the action tokens, as in the code of OpenVLA-OFT and SimpleVLA-RL. RLinf's code leaves it out. Attention goes in both
    directions, so this changes the actions a little: keep what the checkpoint was trained with."""

    @property
    def image_side(self) -> int:
        return self.dino.image

    @classmethod
    def published(cls, head: Head = "tokens") -> OpenVLAOFTModel:
        """The size of the published checkpoints. Those with the regression head see 8 numbers of the state on LIBERO."""
        return cls(head=head, state_size=8 if head == "l1" else None)

    @classmethod
    def tiny(cls, head: Head = "tokens") -> OpenVLAOFTModel:
        """A network of about a million parameters for tests: every part is there, in small."""
        return cls(
            head=head,
            dino=VisionSizes(image=56, patch=14, width=48, layers=3, mlp_width=96, heads=16),
            siglip=VisionSizes(image=56, patch=14, width=64, layers=3, mlp_width=96, heads=16),
            language=DecoderSizes(width=96, layers=3, mlp_width=192, heads=4, key_value_heads=4, head_size=24),
            vocabulary=1024,
            state_size=8 if head == "l1" else None,
        )

    @property
    def first_action_token(self) -> int:
        """The id of the first action token."""
        return self.vocabulary - self.filling - ACTION_TOKENS

    def check(self) -> None:
        """Raise RecipeError where the sizes do not fit together."""
        for name in ("dino", "siglip"):
            sizes: VisionSizes = getattr(self, name)
            check_vision(sizes)
            if sizes.layers < 2:
                raise RecipeError(f"model.{name}.layers={sizes.layers}, but the features are those of the last layer but one: write 2 or more")
        if (dino := self.dino.image // self.dino.patch) != (siglip := self.siglip.image // self.siglip.patch):
            raise RecipeError(
                f"model.dino has {dino} x {dino} patches and model.siglip {siglip} x {siglip}, but their features are joined patch by patch: write image and "
                f"patch sizes that give the same number"
            )
        if self.dino.image != self.siglip.image:
            raise RecipeError(f"model.dino.image={self.dino.image} differs from model.siglip.image={self.siglip.image}, but both see the same: write one size")
        check_decoder(self.language, "model.language")
        if self.first_action_token <= 2:
            raise RecipeError(
                f"model.vocabulary={self.vocabulary} has no room for {ACTION_TOKENS} action tokens and model.filling={self.filling} unused ones behind the "
                f"text: write a larger vocabulary"
            )
