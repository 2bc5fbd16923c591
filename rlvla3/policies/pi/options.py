"""The sizes of pi0 and pi0.5. Nothing here imports torch."""

from __future__ import annotations

from typing import Literal

from rlvla3.config import Positive, PositiveFloat
from rlvla3.errors import RecipeError
from rlvla3.policies.vla.sizes import DecoderSizes, ModelSizes, VisionSizes, check_decoder, check_vision

Variant = Literal["pi0", "pi05"]


class PiModel(ModelSizes):
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

    @property
    def image_side(self) -> int:
        return self.vision.image

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
