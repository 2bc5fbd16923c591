"""What the sizes of all networks have in common, and those of vision towers and decoder layers. Nothing here imports torch."""

from __future__ import annotations

from rlvla3.config import Positive, Section
from rlvla3.errors import RecipeError


class ModelSizes(Section):
    """The sizes of a family's network."""

    horizon: Positive
    """Number of actions that the network computes at once. A chunk is the first of them."""

    @property
    def image_side(self) -> int:
        """Height and width of an image that the vision tower sees, in pixels."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise RecipeError where the sizes do not fit together."""


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

    @property
    def tokens(self) -> int:
        """Image tokens of one image."""
        return (self.image // self.patch) ** 2


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
