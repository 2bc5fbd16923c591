"""SmolVLA in lerobot's checkpoints: the names of its tensors, and the sizes of its network. Nothing here imports torch.

lerobot's config.json does not say how large the vision-language model is, but names it. So most sizes are read off the shapes of the tensors, and the sizes of
attention heads, which no shape shows, are known by the model's name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvla3.errors import RecipeError

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

VISION = "model.vlm_with_expert.vlm.model.vision_model"
TEXT = "model.vlm_with_expert.vlm.model.text_model"
CONNECTOR = "model.vlm_with_expert.vlm.model.connector.modality_projection.proj.weight"
EXPERT = "model.vlm_with_expert.lm_expert"


def smolvla_sizes(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The sizes of the network as policies.pi.smolvla_options.SmolVLAModel has them.

    config: lerobot's config.json. shapes: of the checkpoint's tensors, by their names there.
    Raises RecipeError for a vision-language model that is not known, and where a tensor is missing that the sizes are read off.
    """
    name = config["vlm_model_name"]
    vision_heads, head_size = _heads(name)
    if config["add_image_special_tokens"] and name != "HuggingFaceTB/SmolVLM2-500M-Video-Instruct":
        raise RecipeError(f"config.json: add_image_special_tokens is true, and the special tokens of {name} are not known here: set model.image_start")
    width, _, patch, _ = _shape(shapes, f"{VISION}.embeddings.patch_embedding.weight")
    side = math.isqrt(_shape(shapes, f"{VISION}.embeddings.position_embedding.weight")[0])
    mlp_width = _shape(shapes, f"{VISION}.encoder.layers.0.mlp.fc1.weight")[0]
    layers = _layers(shapes, f"{VISION}.encoder.layers.")
    every = max(config["self_attn_every_n_layers"], 0) if "cross" in config["attention_mode"] else 1
    return {
        "vision": {"image": side * patch, "patch": patch, "width": width, "layers": layers, "mlp_width": mlp_width, "heads": vision_heads},
        "shuffle": math.isqrt(_shape(shapes, CONNECTOR)[1] // width),
        "language": _decoder(shapes, TEXT, head_size),
        "expert": _decoder(shapes, EXPERT, head_size),
        "self_attention_every": every,
        **(SPECIAL_TOKENS if config["add_image_special_tokens"] else {"image_start": [], "image_end": []}),
        "vocabulary": _shape(shapes, f"{TEXT}.embed_tokens.weight")[0],
        "horizon": config["chunk_size"],
        "action_size": config["max_action_dim"],
        "state_size": config["max_state_dim"],
        "min_period": config["min_period"],
        "max_period": config["max_period"],
    }


def _heads(name: str) -> tuple[int, int]:
    """As HEADS has them. A vision-language model may also be a folder, with a config.json of transformers."""
    if name in HEADS:
        return HEADS[name]
    path = Path(name) / "config.json"
    if not path.is_file():
        raise RecipeError(
            f"config.json: vlm_model_name={name} is not known here, so the sizes of its attention heads are not: write the name of a folder that has the "
            f"model's config.json, or one of {', '.join(HEADS)}"
        )
    said = json.loads(path.read_text())
    text = said["text_config"]
    return said["vision_config"]["num_attention_heads"], text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]


def _decoder(shapes: Mapping[str, tuple[int, ...]], stack: str, head_size: int) -> dict[str, int]:
    first = f"{stack}.layers.0"
    return {
        "width": _shape(shapes, f"{stack}.norm.weight")[0],
        "layers": _layers(shapes, f"{stack}.layers."),
        "mlp_width": _shape(shapes, f"{first}.mlp.gate_proj.weight")[0],
        "heads": _shape(shapes, f"{first}.self_attn.q_proj.weight")[0] // head_size,
        "key_value_heads": _shape(shapes, f"{first}.self_attn.k_proj.weight")[0] // head_size,
        "head_size": head_size,
    }


def _layers(shapes: Mapping[str, tuple[int, ...]], stack: str) -> int:
    return len({name.removeprefix(stack).split(".")[0] for name in shapes if name.startswith(stack)})


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise RecipeError(f"the checkpoint has no tensor {name}, off which a size is read: it is no SmolVLA checkpoint of lerobot, or it is damaged")
    return shapes[name]
