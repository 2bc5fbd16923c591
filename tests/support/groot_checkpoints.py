"""Tiny checkpoints of GR00T N1.5, in NVIDIA's layout and in lerobot's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlvla3.policies.groot.network import GR00T
from rlvla3.policies.groot.options import GrootModel, GrootTransformer
from tests.support.groot_references import groot_config, groot_weights
from tests.support.repository import ROOT

REFERENCES = ROOT / "tests" / "references"
TOKENIZER = REFERENCES / "tokenizers" / "qwen"
IMAGE_TOKEN = json.loads((TOKENIZER / "added_tokens.json").read_text())["<IMG_CONTEXT>"]
OUTPUT = "backbone.eagle_model.language_model.lm_head.weight"
EMBEDDING = "backbone.eagle_model.language_model.model.embed_tokens.weight"


def tiny_model() -> GrootModel:
    """The tiny sizes, with the image token of the small tokenizer."""
    tiny = GrootModel.tiny()
    return tiny.model_copy(update={"language": tiny.language.model_copy(update={"image_token": IMAGE_TOKEN})})


def lerobot_model() -> GrootModel:
    """Tiny sizes with as many heads as lerobot's have."""
    stacks = {"prefix_attention": GrootTransformer(layers=1, heads=32, head_size=2), "denoiser": GrootTransformer(layers=2, heads=32, head_size=2)}
    return tiny_model().model_copy(update=stacks)


def groot_tensors(model: GrootModel) -> dict[str, Tensor]:
    """All tensors of a checkpoint, bfloat16. Two things are in it that the network does not use: the output layer and SigLIP's pooling head."""
    tensors = groot_weights(GR00T(model).state_dict())
    head = "backbone.eagle_model.vision_model.vision_model.head."
    others = {OUTPUT: tensors[EMBEDDING].clone(), f"{head}probe": torch.full((1, 1, 48), 0.5), f"{head}layernorm.bias": torch.arange(48.0)}
    return {name: tensor.to(torch.bfloat16) for name, tensor in {**tensors, **others}.items()}


def groot_folder(folder: Path) -> Path:
    """A checkpoint in NVIDIA's layout, with two files of weights, and the small tokenizer beside."""
    shutil.copytree(REFERENCES / "groot" / "checkpoint", folder)
    shutil.copytree(TOKENIZER, folder, dirs_exist_ok=True)
    (folder / "config.json").write_text(json.dumps(groot_config(GrootModel.tiny())))
    tensors = groot_tensors(GrootModel.tiny())
    places = {name: f"model-0000{1 + name.startswith('action_head')}-of-00002.safetensors" for name in tensors}
    for file in set(places.values()):
        save_file({name: tensor for name, tensor in tensors.items() if places[name] == file}, folder / file, {"format": "pt"})
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def lerobot_groot_folder(folder: Path) -> Path:
    """A checkpoint in lerobot's layout, with the small tokenizer beside. The embedding is stored under the name of the output layer."""
    shutil.copytree(REFERENCES / "groot" / "lerobot", folder)
    shutil.copytree(TOKENIZER, folder, dirs_exist_ok=True)
    tensors = groot_tensors(lerobot_model())
    del tensors[EMBEDDING]
    save_file({f"_groot_model.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder
