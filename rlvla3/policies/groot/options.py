"""The sizes of GR00T N1.5, apart from the network: nothing here imports torch."""

from __future__ import annotations

from pydantic import model_validator

from rlvla3.config import NonNegative, Positive, PositiveFloat, Section
from rlvla3.policies.vla.sizes import DecoderSizes, ModelSizes, VisionSizes


class GrootLanguage(DecoderSizes):
    """Sizes of the language model: the first layers of Qwen3-1.7B. The defaults are those of GR00T-N1.5-3B."""

    vocabulary: Positive = 151680
    """Number of token ids."""

    image_token: NonNegative = 151669
    """The id of `<IMG_CONTEXT>`. It stands in the prompt once for each image token."""

    width: Positive = 2048
    layers: Positive = 12
    """How many layers are used. Qwen3-1.7B has 28."""

    mlp_width: Positive = 6144
    heads: Positive = 16
    key_value_heads: Positive = 8
    head_size: Positive = 128

    rope_base: PositiveFloat = 1e6
    """Base of the frequencies of the rotary position embedding."""


class GrootTransformer(Section):
    """Sizes of one of the two transformers of the action head. Its width is heads * head_size."""

    layers: Positive
    """Number of its layers."""

    heads: Positive
    """Attention heads of a layer."""

    head_size: Positive
    """Size of a head."""

    @property
    def width(self) -> int:
        return self.heads * self.head_size


class GrootModel(ModelSizes):
    """Sizes of GR00T N1.5. The defaults are those of GR00T-N1.5-3B."""

    vision: VisionSizes = VisionSizes()
    """The vision tower."""

    language: GrootLanguage = GrootLanguage()
    """The language model."""

    projection: Positive | None = None
    """Width that the output of the language model is projected to. With `null` it is used as it is."""

    prefix_attention: GrootTransformer = GrootTransformer(layers=4, heads=32, head_size=64)
    """The self-attention over the output of the language model (vl_self_attention)."""

    denoiser: GrootTransformer = GrootTransformer(layers=16, heads=32, head_size=48)
    """The diffusion transformer (DiT). Its layers attend by turns to the prefix and to the tokens of the chunk."""

    hidden: Positive = 1024
    """Width of the features of an action, and hidden width of the state encoder and of the action decoder."""

    future_tokens: Positive = 32
    """Learned tokens that are denoised beside the actions."""

    positions: Positive = 1024
    """Rows of the table of position embeddings. Only the first `horizon` ones are used."""

    buckets: Positive = 1000
    """Times are rounded down to one of so many values."""

    horizon: Positive = 16
    """Actions that the network computes at once."""

    action_size: Positive = 32
    """Dimensions of an action, with padding."""

    state_size: Positive = 64
    """Numbers of the state, with padding."""

    embodiments: Positive = 32
    """Kinds of robots. Each has weights of its own in the state encoder, the action encoder and the action decoder."""

    embodiment: NonNegative = 31
    """The kind of robot that acts."""

    @property
    def image_side(self) -> int:
        return self.vision.image

    @classmethod
    def published(cls) -> GrootModel:
        """The sizes of GR00T-N1.5-3B: 2.7 billion parameters."""
        return cls()

    @classmethod
    def tiny(cls) -> GrootModel:
        """About a million parameters, for tests. Half of them are the weights of the 32 embodiments."""
        return cls(
            vision=VisionSizes(width=48, layers=2, heads=16, mlp_width=96, image=56),
            language=GrootLanguage(vocabulary=384, image_token=260, width=64, layers=2, heads=4, key_value_heads=2, head_size=16, mlp_width=128),
            prefix_attention=GrootTransformer(layers=1, heads=4, head_size=16),
            denoiser=GrootTransformer(layers=4, heads=4, head_size=12),
            hidden=40,
            future_tokens=4,
            positions=32,
        )

    @property
    def prefix_width(self) -> int:
        """Width of the prefix: what the language model gives, perhaps projected."""
        return self.projection or self.language.width

    @model_validator(mode="after")
    def _check_together(self) -> GrootModel:
        if self.prefix_attention.width != self.prefix_width:
            raise ValueError(
                f"prefix_attention has width {self.prefix_attention.width} (heads * head_size), and the prefix {self.prefix_width}: make them equal"
            )
        if self.embodiment >= self.embodiments:
            raise ValueError(f"embodiment={self.embodiment} is not below embodiments={self.embodiments}: choose a smaller one")
        if self.horizon > self.positions:
            raise ValueError(f"horizon={self.horizon} needs as many rows of positions={self.positions}: make positions larger")
        if self.vision.image % self.vision.patch:
            raise ValueError(f"vision.image={self.vision.image} is no multiple of vision.patch={self.vision.patch}: choose an image size that the patches tile")
        if self.language.image_token >= self.language.vocabulary:
            raise ValueError(f"image_token={self.language.image_token} is not below vocabulary={self.language.vocabulary}: choose a smaller id")
        return self
