"""SmolVLA in lerobot's checkpoints: the names of its tensors, and the sizes of its network. Nothing here imports torch.

lerobot's config.json does not say how large the vision-language model is, but names it. So most sizes are read off the shapes of the tensors, and the sizes of
attention heads, which no shape shows, are known by the model's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from rlvla3.checkpoints.shapes import Shapes
from rlvla3.checkpoints.weight_files import COPY_AGAIN, read_json
from rlvla3.config import path_of
from rlvla3.errors import RecipeError
from rlvla3.metadata import Metadata, checked

RENAMES = (("", "model."),)
"""(a beginning of our names, what stands there in the checkpoint)."""

UNUSED = ("model.vlm_with_expert.vlm.lm_head.",)
"""Beginnings of names of tensors that no action depends on, and that our network leaves out: the language head, of the shape of `embed_tokens`. lerobot wants
to find it."""

HEADS = {
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": (12, 64),
    "HuggingFaceTB/SmolVLM2-256M-Video-Instruct": (12, 64),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": (16, 64),
}
"""Vision-language model -> (attention heads of its vision tower, size of an attention head of its language model)."""

SPECIAL_TOKENS = {"image_start": [49189, 49152], "image_end": [49189]}
"""<fake_token_around_image> <global-img> in front of an image, and <fake_token_around_image> behind it, as SmolVLM2 500M counts its tokens."""

Size = Annotated[int, Field(ge=1, le=100_000)]

VISION = "model.vlm_with_expert.vlm.model.vision_model"
TEXT = "model.vlm_with_expert.vlm.model.text_model"
CONNECTOR = "model.vlm_with_expert.vlm.model.connector.modality_projection.proj.weight"
EXPERT = "model.vlm_with_expert.lm_expert"


class _Attention(Metadata):
    num_attention_heads: Annotated[int, Field(ge=1, le=10_000)]


class _LanguageAttention(Metadata):
    """The size of a head, or the numbers that it follows from."""

    head_dim: Size | None = None
    hidden_size: Size | None = None
    num_attention_heads: Size | None = None


class _VisionLanguageModel(Metadata):
    """config.json of a vision-language model, as transformers writes it."""

    vision_config: _Attention
    text_config: _LanguageAttention


class SmolVLAConfig(Metadata):
    """What lerobot's config.json says of the network."""

    vlm_model_name: str
    add_image_special_tokens: bool
    self_attn_every_n_layers: int
    attention_mode: str
    chunk_size: Size
    max_action_dim: Size
    max_state_dim: Size
    min_period: float
    max_period: float


def smolvla_sizes(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The sizes of the network as policies.pi.smolvla_options.SmolVLAModel has them.

    config: lerobot's config.json. shapes: of the checkpoint's tensors, by their names there.
    Raises RecipeError for a vision-language model that is not known, and where a tensor that the sizes are read off is missing, or has other dimensions.
    """
    said = checked(SmolVLAConfig, config, str(folder / "config.json"), COPY_AGAIN)
    name = said.vlm_model_name
    vision_heads, head_size = _heads(name)
    if said.add_image_special_tokens and name != "HuggingFaceTB/SmolVLM2-500M-Video-Instruct":
        raise RecipeError(f"config.json: add_image_special_tokens is true, and the special tokens of {name} are not known here: set model.image_start")
    known = Shapes(str(folder), "SmolVLA checkpoint of lerobot", shapes)
    width, _, patch, _ = known.of(f"{VISION}.embeddings.patch_embedding.weight", 4)
    side = math.isqrt(known.of(f"{VISION}.embeddings.position_embedding.weight", 2)[0])
    mlp_width = known.of(f"{VISION}.encoder.layers.0.mlp.fc1.weight", 2)[0]
    layers = known.layers(f"{VISION}.encoder.layers.")
    every = max(said.self_attn_every_n_layers, 0) if "cross" in said.attention_mode else 1
    return {
        "vision": {"image": side * patch, "patch": patch, "width": width, "layers": layers, "mlp_width": mlp_width, "heads": vision_heads},
        "shuffle": math.isqrt(known.of(CONNECTOR, 2)[1] // width),
        "language": _decoder(known, TEXT, head_size),
        "expert": _decoder(known, EXPERT, head_size),
        "self_attention_every": every,
        **(SPECIAL_TOKENS if said.add_image_special_tokens else {"image_start": [], "image_end": []}),
        "vocabulary": known.of(f"{TEXT}.embed_tokens.weight", 2)[0],
        "horizon": said.chunk_size,
        "action_size": said.max_action_dim,
        "state_size": said.max_state_dim,
        "min_period": said.min_period,
        "max_period": said.max_period,
    }


def _heads(name: str) -> tuple[int, int]:
    """As HEADS has them. A vision-language model may also be a folder, with a config.json of transformers."""
    if name in HEADS:
        return HEADS[name]
    path = path_of(name) / "config.json"
    if not path.is_file():
        raise RecipeError(
            f"config.json: vlm_model_name={name} is not known here, so the sizes of its attention heads are not: write the name of a folder that has the "
            f"model's config.json, or one of {', '.join(HEADS)}"
        )
    said = checked(_VisionLanguageModel, read_json(path), str(path), COPY_AGAIN)
    text = said.text_config
    if text.head_dim is None and (text.hidden_size is None or text.num_attention_heads is None):
        raise RecipeError(f"{path}: text_config has neither head_dim nor hidden_size and num_attention_heads: the size of a head is not known. {COPY_AGAIN}")
    return said.vision_config.num_attention_heads, text.head_dim or (text.hidden_size or 0) // (text.num_attention_heads or 1)


def _decoder(known: Shapes, stack: str, head_size: int) -> dict[str, int]:
    first = f"{stack}.layers.0"
    return {
        "width": known.of(f"{stack}.norm.weight", 1)[0],
        "layers": known.layers(f"{stack}.layers."),
        "mlp_width": known.of(f"{first}.mlp.gate_proj.weight", 2)[0],
        "heads": known.of(f"{first}.self_attn.q_proj.weight", 2)[0] // head_size,
        "key_value_heads": known.of(f"{first}.self_attn.k_proj.weight", 2)[0] // head_size,
        "head_size": head_size,
    }
