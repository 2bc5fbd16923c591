"""Adapters as a folder of peft: PeftModel.from_pretrained and lerobot load it beside the checkpoint that they were trained with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from rlvla3.checkpoints.checkpoint import Checkpoint
from rlvla3.checkpoints.weight_files import read_json
from rlvla3.policies.vla.adapters import adapter_tensors
from rlvla3.policies.vla.options import LoRAOptions

PREFIX = "base_model.model."
"""What peft puts in front of the names of a model's tensors."""


def write_adapters(folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor], lora: LoRAOptions, base: str | None) -> list[str]:
    """Write the adapters of a network's `state`, and all files of `checkpoint` but its weights. base: the checkpoint's folder or name, if it is known."""
    tensors = {_theirs(name, checkpoint): tensor.float().contiguous() for name, tensor in adapter_tensors(state).items()}
    for name in checkpoint.carried:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint.folder / name, folder / name)
    layers = sorted({name.removeprefix(PREFIX).partition(".lora_")[0] for name in tensors})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "task_type": None,
        "target_modules": layers,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    if checkpoint.layout == "lerobot":
        described = read_json(folder / "config.json")
        (folder / "config.json").write_text(json.dumps({**described, "use_peft": True}, indent=2) + "\n")
    named = base or "the checkpoint that the run started from"
    text = f"Adapters (LoRA, rank {lora.rank}, alpha {lora.alpha}) for {named}, family {checkpoint.family}, trained by rlvla3. They are useless without it.\n"
    (folder / "README.md").write_text(text)
    return [f"{len(layers)} adapters of rank {lora.rank} are written apart: they belong to {named}"]


def _theirs(name: str, checkpoint: Checkpoint) -> str:
    """peft's name of a tensor of an adapter, from the network's name LAYER.lora_A.weight."""
    layer, _, rest = name.partition(".lora_")
    theirs = checkpoint.names.theirs(f"{layer}.weight")
    stored = checkpoint.weights[checkpoint.names.stored(theirs, checkpoint.weights)].name
    return f"{PREFIX}{stored.removesuffix('.weight')}.lora_{rest}"
