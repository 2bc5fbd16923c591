"""The names of the tensors of pi0 and pi0.5 in the checkpoints that people have, against those of rlvla3.policies.pi.network.Pi. Nothing here imports torch.

Our names are those of openpi's PyTorch checkpoints. lerobot puts `model.` in front of each. Beyond that, files differ in what is listed here.
"""

from __future__ import annotations

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
