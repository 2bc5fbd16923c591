"""The sizes of SmolVLA's network. Nothing here imports torch."""

from __future__ import annotations

from rlvla3.config import NonNegative, Positive, PositiveFloat
from rlvla3.errors import RecipeError
from rlvla3.policies.vla.sizes import DecoderSizes, ModelSizes, VisionSizes, check_decoder, check_vision


class SmolVLAModel(ModelSizes):
    """The network of SmolVLA (arXiv 2506.01844)."""

    vision: VisionSizes = VisionSizes(image=512, patch=16, width=768, layers=12, mlp_width=3072, heads=12)
    """The vision tower: SigLIP, as SmolVLM2 500M has it."""

    shuffle: Positive = 4
    """So many rows and columns of patches become one image token."""

    language: DecoderSizes = DecoderSizes(width=960, layers=16, mlp_width=2560, heads=15, key_value_heads=5, head_size=64)
    """The language model: the first 16 layers of SmolLM2 360M."""

    expert: DecoderSizes = DecoderSizes(width=720, layers=16, mlp_width=2048, heads=15, key_value_heads=5, head_size=64)
    """The action expert. Its heads are those of the language model. With fewer layers, it attends to every second, third, ... layer of the language model."""

    self_attention_every: NonNegative = 2
    """Layers 0, n, 2n, ... of the expert attend to the prefix and to the actions before their own; the others to the prefix alone. 0: no layer sees actions."""

    image_start: list[NonNegative] = []
    """Tokens in front of each image. SmolVLM2 has [49189, 49152], and the published policies leave them out."""

    image_end: list[NonNegative] = []
    """Tokens behind each image. SmolVLM2 has [49189]."""

    vocabulary: Positive = 49280
    """Number of tokens that the language model knows."""

    horizon: Positive = 50
    """Number of actions that the network computes at once."""

    action_size: Positive = 32
    """Dimensions of an action, with padding."""

    state_size: Positive = 32
    """Dimensions of the state, with padding."""

    min_period: PositiveFloat = 4e-3
    """Shortest period of the sines and cosines that encode the time of a denoising step, which goes from 0 to 1."""

    max_period: PositiveFloat = 4.0
    """Longest of these periods."""

    @property
    def image_side(self) -> int:
        return self.vision.image

    @classmethod
    def published(cls) -> SmolVLAModel:
        """The size of `smolvla_base`: 450 M parameters."""
        return cls()

    @classmethod
    def tiny(cls) -> SmolVLAModel:
        """A network of less than a million parameters for tests: every part is there, in small. Vision heads and head size are the published ones, because
        lerobot's checkpoints do not say them."""
        return cls(
            vision=VisionSizes(image=64, patch=8, width=48, layers=2, mlp_width=96, heads=12),
            language=DecoderSizes(width=72, layers=4, mlp_width=144, heads=2, key_value_heads=1, head_size=64),
            expert=DecoderSizes(width=54, layers=4, mlp_width=256, heads=2, key_value_heads=1, head_size=64),
            vocabulary=1024,
            horizon=8,
        )

    @property
    def cross_layers(self) -> list[int]:
        """The layers of the expert that attend to the prefix alone."""
        return [layer for layer in range(self.expert.layers) if not self.self_attention_every or layer % self.self_attention_every]

    def check(self) -> None:
        """Raise RecipeError where the sizes do not fit together."""
        check_vision(self.vision)
        for name in ("language", "expert"):
            check_decoder(getattr(self, name), f"model.{name}")
        side, language, expert = self.vision.image // self.vision.patch, self.language, self.expert
        if side % self.shuffle:
            raise RecipeError(f"model.shuffle={self.shuffle} does not divide the {side} patches along an image: write a divisor of {side}")
        for name in ("heads", "key_value_heads", "head_size"):
            ours, theirs = getattr(expert, name), getattr(language, name)
            if ours != theirs:
                raise RecipeError(f"model.expert.{name}={ours} differs from model.language.{name}={theirs}, but the expert has the same heads: write {theirs}")
        if language.layers % expert.layers:
            raise RecipeError(
                f"model.expert.layers={expert.layers} does not divide model.language.layers={language.layers}, but the expert's layers are spread evenly over "
                f"those of the language model: write a divisor of {language.layers}"
            )
        if expert.layers < language.layers and self.self_attention_every:
            raise RecipeError(
                f"model.self_attention_every={self.self_attention_every} needs as many layers in the expert as in the language model, and there are "
                f"{expert.layers} and {language.layers}: write model.self_attention_every: 0, or model.expert.layers: {language.layers}"
            )
        if expert.width % 2:
            raise RecipeError(f"model.expert.width={expert.width} is odd, but half of it holds sines of the time and half cosines: write an even number")
