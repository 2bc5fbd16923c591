"""GR00T's weights: names in the checkpoints that people have, sizes that are read off their shapes, and what NVIDIA's code has beside them.

Our network has the names of NVIDIA's checkpoints. lerobot puts `_groot_model.` in front of each. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvla3.checkpoints.shapes import Shapes
from rlvla3.checkpoints.weight_names import WeightNames

LEROBOT_PREFIX = "_groot_model."

VISION = "backbone.eagle_model.vision_model.vision_model."
LANGUAGE = "backbone.eagle_model.language_model.model."
HEAD = "action_head."

TIED = {"backbone.eagle_model.language_model.lm_head.weight": f"{LANGUAGE}embed_tokens.weight"}
"""The output layer of the language model, which is never called, and the embedding that it equals. A file may hold either or both."""

UNUSED = (f"{VISION}head.",)
"""SigLIP's pooling head: GR00T uses the tokens of the vision tower before it."""

VISION_HEADS = 16
"""Attention heads of SigLIP. No shape shows them."""

IMAGE_TOKEN = 151669
"""The id of <IMG_CONTEXT> in Eagle's tokenizer."""

IMAGE_TEXT = "<IMG_CONTEXT>"

EMBODIMENTS = {"new_embodiment": 31, "oxe_droid": 17, "agibot_genie1": 26, "gr1": 24, "libero_franka": 31, "isaaclab_franka": 31, "maniskill_widowx": 30}
"""Embodiment tag -> its place in the weights of embodiments. The first four are NVIDIA's for N1.5, the others RLinf's. RLinf's own new_embodiment is 10."""

OTHER_PROCESSING = {
    "gr1": "sines and cosines of joint angles as the state",
    "maniskill_widowx": "sines and cosines of joint angles as the state",
    "oxe_droid": "rotations that are converted first",
}
"""Tags whose data are processed in ways that are not written here, and what those are."""


def weight_names(prefix: str = "") -> WeightNames:
    """How the names of a file correspond to the network's. prefix: what stands in front of each."""
    tied = {prefix + copy: prefix + original for copy, original in TIED.items()}
    return WeightNames((("", prefix),) if prefix else (), tied, tuple(prefix + beginning for beginning in UNUSED))


def groot_sizes(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The sizes as policies.groot.options.GrootModel has them, all but the horizon and the heads of the action head. shapes: of the tensors, by our names.

    Raises RecipeError where a tensor that a size is read off is missing, or has other dimensions.
    """

    known = Shapes(str(folder), "checkpoint of GR00T N1.5", shapes)
    width, _, patch, _ = known.of(f"{VISION}embeddings.patch_embedding.weight", 4)
    side = math.isqrt(known.of(f"{VISION}embeddings.position_embedding.weight", 2)[0])
    vision = {"width": width, "layers": known.layers(f"{VISION}encoder.layers."), "heads": VISION_HEADS, "image": side * patch, "patch": patch}
    words, hidden = known.of(next((name for pair in TIED.items() for name in pair if name in shapes), f"{LANGUAGE}embed_tokens.weight"), 2)
    first = f"{LANGUAGE}layers.0."
    (size,) = known.of(f"{first}self_attn.q_norm.weight", 1)
    language = {
        "vocabulary": words,
        "width": hidden,
        "layers": known.layers(f"{LANGUAGE}layers."),
        "heads": known.of(f"{first}self_attn.q_proj.weight", 2)[0] // size,
        "key_value_heads": known.of(f"{first}self_attn.k_proj.weight", 2)[0] // size,
        "head_size": size,
        "mlp_width": known.of(f"{first}mlp.gate_proj.weight", 2)[0],
    }
    embodiments, state, inner = known.of(f"{HEAD}state_encoder.layer1.W", 3)
    projection = "backbone.eagle_linear.weight"
    return {
        "vision": {**vision, "mlp_width": known.of(f"{VISION}encoder.layers.0.mlp.fc1.weight", 2)[0]},
        "language": language,
        "projection": known.of(projection, 2)[0] if projection in shapes else None,
        "hidden": inner,
        "future_tokens": known.of(f"{HEAD}future_tokens.weight", 2)[0],
        "positions": known.of(f"{HEAD}position_embedding.weight", 2)[0],
        "action_size": known.of(f"{HEAD}action_decoder.layer2.W", 3)[2],
        "state_size": state,
        "embodiments": embodiments,
    }
