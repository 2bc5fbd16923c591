"""The sizes of the flow-expert networks. Nothing here imports torch."""

from __future__ import annotations

from typing import Literal

from rlvla3.config import Positive, PositiveFloat, Section
from rlvla3.errors import RecipeError

Variant = Literal["pi0", "pi05"]


class VisionSizes(Section):
    """A SigLIP vision tower."""

    image: Positive = 224
    """Height and width of an image in pixels."""

    patch: Positive = 14
    """Height and width of a patch in pixels. Each patch becomes one token."""

    width: Positive = 1152
    """Width of a token."""

    layers: Positive = 27
    """Number of layers."""

    mlp_width: Positive = 4304
    """Width inside the MLP of a layer."""

    heads: Positive = 16
    """Attention heads of a layer."""


class DecoderSizes(Section):
    """A stack of decoder layers: the language model, or the action expert."""

    width: Positive
    """Width of a token."""

    layers: Positive
    """Number of layers."""

    mlp_width: Positive
    """Width inside the MLP of a layer."""

    heads: Positive
    """Attention heads of the queries."""

    key_value_heads: Positive
    """Attention heads of the keys and values. Several heads of the queries share one of them."""

    head_size: Positive
    """Width of an attention head."""


class PiModel(Section):
    """The network of pi0 (arXiv 2410.24164) or pi0.5 (arXiv 2504.16054)."""

    variant: Variant = "pi0"
    """`pi0`: the expert's first token is the state, and time is mixed into the action tokens. `pi05`: no state token, and time sets the scale, shift and gate
    of every norm of the expert (adaRMS)."""

    vision: VisionSizes = VisionSizes()
    """The vision tower."""

    language: DecoderSizes = DecoderSizes(width=2048, layers=18, mlp_width=16384, heads=8, key_value_heads=1, head_size=256)
    """The language model: Gemma 2B, as PaliGemma has it."""

    expert: DecoderSizes = DecoderSizes(width=1024, layers=18, mlp_width=4096, heads=8, key_value_heads=1, head_size=256)
    """The action expert. Its layers attend to the layers of the language model one by one, so the two have the same number of layers and the same heads."""

    vocabulary: Positive = 257152
    """Number of tokens that the language model knows."""

    horizon: Positive = 50
    """Number of actions that the network computes at once."""

    action_size: Positive = 32
    """Dimensions of an action, with padding."""

    state_size: Positive = 32
    """Dimensions of the state, with padding. Only `pi0` has a state token."""

    min_period: PositiveFloat = 4e-3
    """Shortest period of the sines and cosines that encode the time of a denoising step, which goes from 0 to 1."""

    max_period: PositiveFloat = 4.0
    """Longest of these periods."""

    @classmethod
    def published(cls, variant: Variant) -> PiModel:
        """The size of the published checkpoints. Their horizons differ: LIBERO's is 50 for pi0 and 10 for pi0.5."""
        return cls(variant=variant)

    @classmethod
    def tiny(cls, variant: Variant) -> PiModel:
        """A network of less than a million parameters for tests: every part is there, in small."""
        return cls(
            variant=variant,
            vision=VisionSizes(image=56, patch=14, width=64, layers=2, mlp_width=128, heads=16),
            language=DecoderSizes(width=96, layers=3, mlp_width=192, heads=4, key_value_heads=1, head_size=24),
            expert=DecoderSizes(width=64, layers=3, mlp_width=128, heads=4, key_value_heads=1, head_size=24),
            vocabulary=1024,
            horizon=8,
        )

    def check(self) -> None:
        """Raise RecipeError where the sizes do not fit together."""
        check_vision(self.vision)
        for name in ("layers", "heads", "key_value_heads", "head_size"):
            language, expert = getattr(self.language, name), getattr(self.expert, name)
            if language != expert:
                raise RecipeError(
                    f"model.language.{name}={language} differs from model.expert.{name}={expert}, but each layer of the expert attends to one of the language "
                    f"model with the same heads: write the same number twice"
                )
        for name in ("language", "expert"):
            check_decoder(getattr(self, name), f"model.{name}")
        if self.expert.width % 2:
            raise RecipeError(f"model.expert.width={self.expert.width} is odd, but half of it holds sines of the time and half cosines: write an even number")


def check_vision(sizes: VisionSizes) -> None:
    """Raise RecipeError where a vision tower of these sizes cannot be built."""
    if sizes.image % sizes.patch:
        raise RecipeError(f"model.vision.image={sizes.image} is no multiple of model.vision.patch={sizes.patch}: write an image size that the patches tile")
    if sizes.width % sizes.heads:
        raise RecipeError(f"model.vision.width={sizes.width} is no multiple of model.vision.heads={sizes.heads}: write a width that the heads share evenly")


def check_decoder(sizes: DecoderSizes, key: str) -> None:
    """Raise RecipeError where decoder layers of these sizes cannot be built. key: where the sizes stand in the recipe."""
    if sizes.heads % sizes.key_value_heads:
        raise RecipeError(f"{key}.heads={sizes.heads} is no multiple of {key}.key_value_heads={sizes.key_value_heads}: write a multiple of it")
    if sizes.head_size % 2:
        raise RecipeError(f"{key}.head_size={sizes.head_size} is odd, but rotary positions turn pairs of numbers: write an even number")
