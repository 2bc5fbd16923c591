"""The names of the tensors of pi0 and pi0.5 in the checkpoints that people have, against those of rlvla3.policies.pi.network.Pi. Nothing here imports torch.

Our names are those of openpi's PyTorch checkpoints. lerobot puts `model.` in front of each. Beyond that, files differ in what is listed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvla3.checkpoints.contents import Family
from rlvla3.checkpoints.shapes import Shapes
from rlvla3.checkpoints.weight_names import WeightNames

LEROBOT_PREFIX = "model."

TIED = {"paligemma_with_expert.paligemma.lm_head.weight": "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"}
"""Language heads, and the embedding that each equals in the model as published. A file may hold either or both: openpi's files hold the head alone, because
safetensors writes tied tensors once. Where a file holds both, the embedding counts. They may differ, because lerobot trains the embedding and not the head."""

UNUSED = ("paligemma_with_expert.gemma_expert.lm_head.weight",)
"""Tensors that no action depends on, and that we do not keep: the expert's language head, [vocabulary, width of the expert]. The authors' loaders ask for
it."""

RENAMED = (
    ("paligemma_with_expert.paligemma.model.vision_tower.embeddings.", "paligemma_with_expert.paligemma.model.vision_tower.vision_model.embeddings."),
    ("paligemma_with_expert.paligemma.model.vision_tower.encoder.", "paligemma_with_expert.paligemma.model.vision_tower.vision_model.encoder."),
    ("paligemma_with_expert.paligemma.model.vision_tower.post_layernorm.", "paligemma_with_expert.paligemma.model.vision_tower.vision_model.post_layernorm."),
)
"""Other beginnings of names: (in the file, ours). In newer versions of transformers the vision tower has no `vision_model` inside."""

STATE = "state_proj."
"""lerobot leaves out the projection of the state where a file of pi0.5 has one: pi0.5 has no state token."""

VISION_HEADS = 16
"""Attention heads of PaliGemma's vision tower. No shape shows them."""

VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model"
LANGUAGE, EXPERT = "paligemma_with_expert.paligemma.model.language_model", "paligemma_with_expert.gemma_expert.model"


PUBLISHED_VISION_WIDTH = 1152


def notes_on_sizes(folder: Path, sizes: Mapping[str, Any]) -> list[str]:
    """A sentence for the user where `pi_sizes` assumed what no published checkpoint needs to say."""
    if sizes["vision"]["width"] == PUBLISHED_VISION_WIDTH:
        return []
    return [
        f"{folder} has a vision tower of another width than the published one, and does not say how many attention heads it has: {VISION_HEADS} are assumed, "
        f"and one head of keys and values in each decoder. Set policy.options.model otherwise"
    ]


def todays_name(name: str, family: Family) -> str:
    """Our name of a tensor of a file. lerobot reads either name of the networks of the time for pi0 and for pi0.5."""
    other, own = ("action_time_mlp_", "time_mlp_") if family == "pi05" else ("time_mlp_", "action_time_mlp_")
    for old, new in ((other, own), *RENAMED):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def weight_names(family: Family, unused: tuple[str, ...] = ()) -> WeightNames:
    """How the names of a file correspond to the network's, after `todays_name`. unused: beginnings of more names that the network does not have."""
    return WeightNames(tied=TIED, unused=(*UNUSED, *unused, *((STATE,) if family == "pi05" else ())))


def head_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The language heads that the authors' loaders ask for, for a network with tensors of `shapes`."""
    head, embedding = next(iter(TIED.items()))
    return {head: shapes[embedding], UNUSED[0]: (shapes[embedding][0], shapes[f"{EXPERT}.layers.0.mlp.gate_proj.weight"][1])}


def pi_sizes(folder: Path, family: Family, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The sizes of the network as policies.pi.options.PiModel has them, all but the horizon. shapes: of the file's tensors, by our names.

    Raises RecipeError where a tensor that the sizes are read off is missing, or has other dimensions.
    """

    known = Shapes(str(folder), f"checkpoint of {family}", shapes)

    def decoder(stack: str) -> dict[str, int]:
        """Gemma's stacks here have one head of keys and values, so its size is that of the head."""
        first = f"{stack}.layers.0"
        head_size, width = known.of(f"{first}.self_attn.k_proj.weight", 2)
        sizes = {"width": width, "layers": known.layers(f"{stack}.layers."), "mlp_width": known.of(f"{first}.mlp.gate_proj.weight", 2)[0]}
        return {**sizes, "heads": known.of(f"{first}.self_attn.q_proj.weight", 2)[0] // head_size, "key_value_heads": 1, "head_size": head_size}

    width, _, patch, _ = known.of(f"{VISION}.embeddings.patch_embedding.weight", 4)
    side = math.isqrt(known.of(f"{VISION}.embeddings.position_embedding.weight", 2)[0])
    vision = {"image": side * patch, "patch": patch, "width": width, "layers": known.layers(f"{VISION}.encoder.layers.")}
    words = next((name for pair in TIED.items() for name in pair if name in shapes), f"{LANGUAGE}.embed_tokens.weight")
    return {
        "variant": family,
        "vision": {**vision, "mlp_width": known.of(f"{VISION}.encoder.layers.0.mlp.fc1.weight", 2)[0], "heads": VISION_HEADS},
        "language": decoder(LANGUAGE),
        "expert": decoder(EXPERT),
        "vocabulary": known.of(words, 2)[0],
        "action_size": known.of("action_in_proj.weight", 2)[1],
        "state_size": known.of("state_proj.weight" if family == "pi0" else "action_in_proj.weight", 2)[1],
    }
