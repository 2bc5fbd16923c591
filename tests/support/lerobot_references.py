"""Whole tiny checkpoints of lerobot, which lerobot's code and our tests run from a raw observation to executed actions. It imports numpy and torch alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.support import pi_references, smolvla_references
from tests.support.named_weights import named_normal, named_weights
from tests.support.repository import ROOT

REFERENCES = ROOT / "tests" / "references"
TOKENIZERS = {"pi0": "gemma", "pi05": "gemma", "smolvla": "smollm"}
VOCABULARY = 512
"""More than the small tokenizers have."""


def sizes(family: str) -> dict[str, Any]:
    """As in the other references, with the heads that checkpoints are read with, because they do not say them."""
    if family == "smolvla":
        return smolvla_references.sizes("published") | {"vocabulary": VOCABULARY}
    size = pi_references.sizes(family) | {"vocabulary": VOCABULARY}
    heads = {"vision": {"heads": 16}, "language": {"key_value_heads": 1}, "expert": {"key_value_heads": 1}}
    return size | {part: size[part] | changes for part, changes in heads.items()}


def weights(family: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return smolvla_references.weights(state) if family == "smolvla" else named_weights(state)


def noise() -> Tensor:
    return named_normal("end to end", 2, 6, 32)


def folder_without_weights(folder: Path, family: str) -> Path:
    """lerobot's JSON and statistics, for a model that is tiny and sees square images, with the small tokenizer. It may hold files already."""
    shutil.copytree(REFERENCES / "lerobot" / family, folder, dirs_exist_ok=True)
    size = sizes(family)
    side, before = size["vision"]["image"], json.loads((folder / "policy_preprocessor.json").read_text())
    config = json.loads((folder / "config.json").read_text()) | {"chunk_size": size["horizon"]}
    for step in before["steps"]:
        if step["registry_name"] == "tokenizer_processor":
            step["config"]["tokenizer_name"] = str(REFERENCES / "tokenizers" / TOKENIZERS[family])
    if family == "smolvla":
        config |= {"resize_imgs_with_padding": [side, side], "vlm_model_name": str(folder / "vlm"), "num_vlm_layers": 0}
        heads = {"vision_config": {"num_attention_heads": size["vision"]["heads"]}, "text_config": {"head_dim": size["language"]["head_size"]}}
        (folder / "vlm").mkdir(exist_ok=True)
        (folder / "vlm" / "config.json").write_text(json.dumps(heads))
    else:
        config |= {"image_resolution": [side, side]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "policy_preprocessor.json").write_text(json.dumps(before))
    return folder
