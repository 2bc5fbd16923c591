"""Tiny good policy folders, one of each kind, which broken ones are made from: as this package saves them, and in the layouts of other software."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rlvla3.checkpoints.checkpoint import Layout
from rlvla3.checkpoints.pi_names import head_shapes
from rlvla3.config import PolicyConfig
from rlvla3.policies.groot.network import GR00T
from rlvla3.policies.groot.options import GrootModel, GrootTransformer
from rlvla3.policies.openvla_oft.network import OpenVLAOFT
from rlvla3.policies.openvla_oft.options import OpenVLAOFTModel
from rlvla3.policies.pi.network import Pi
from rlvla3.policies.pi.options import PiModel
from rlvla3.policies.registry import make_policy
from rlvla3.policies.vla.export import export_policy
from rlvla3.types import ActionSpace, Spaces

SPACES = Spaces({"agentview": (64, 64, 3), "robot0_eye_in_hand": (64, 64, 3)}, 8, ActionSpace("continuous", 7), 100, ("open the drawer",))
"""Those of LIBERO, whose preset shows the cameras to the models."""

FED: dict[str, Any] = {"processing": {"prompt": {"tokenizer": "bytes", "length": 300}}}
"""What a recipe says: checkpoints name tokenizers that are on the hub, and the one of bytes needs none."""

FED_TINY: dict[str, Any] = {"processing": {**FED["processing"], "images": {"size": [56, 56]}}}
"""The same, for layouts whose images have the published size."""

SMALL = {"width": 16, "layers": 1, "expert_width": 16, "instruction_bytes": 32}
OURS: Mapping[str, PolicyConfig] = {
    "mini_vla": PolicyConfig(name="mini_vla", chunk=2, options=SMALL),
    "mini_vla tokens": PolicyConfig(name="mini_vla", chunk=2, options={**SMALL, "head": "tokens"}),
    "actor_critic": PolicyConfig(name="actor_critic", chunk=2, options={"hidden": 8}),
    "pi0": PolicyConfig(name="pi0", chunk=2, size="tiny"),
}
"""Saved policies of this package."""

EXPORTED: Mapping[str, tuple[str, Layout]] = {
    "lerobot pi0": ("pi0", "lerobot"),
    "lerobot pi05": ("pi05", "lerobot"),
    "lerobot smolvla": ("smolvla", "lerobot"),
}
"""What this package writes in the layout of other software: the family, and whose layout."""


def save_ours(folder: Path, config: PolicyConfig) -> None:
    torch.manual_seed(0)
    make_policy(config, SPACES).save(folder, config.name)


def export(folder: Path, family: str, layout: Layout) -> None:
    saved = folder.with_name(f"{folder.name} saved")
    save_ours(saved, PolicyConfig(name=family, chunk=2, size="tiny"))
    export_policy(saved, folder, layout, "merged", "as_it_came", None)
    shutil.rmtree(saved)


def openpi(folder: Path, variant: Literal["pi0", "pi05"]) -> None:
    """As openpi's PyTorch code saves it, with the statistics of one robot."""
    sizes = PiModel.tiny(variant)
    tensors = _tensors(Pi(sizes))
    tensors |= {name: torch.zeros(shape) for name, shape in head_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    _write(folder / "config.json", {"action_dim": sizes.action_size, "action_horizon": sizes.horizon, "paligemma_variant": "gemma_2b"})
    (folder / "assets/libero").mkdir(parents=True)
    _write(folder / "assets/libero/norm_stats.json", {"norm_stats": {"state": _bounds(8), "actions": _bounds(7)}})


def openvla(folder: Path) -> None:
    """As the authors' code saves it, with the L1 head: two files of weights, their index, and torch files of the heads."""
    sizes = OpenVLAOFTModel.tiny("l1")
    tensors = _tensors(OpenVLAOFT(sizes))
    for part in ("action_head", "proprio_projector"):
        own = {f"module.{name.removeprefix(f'{part}.')}": tensors.pop(name) for name in list(tensors) if name.startswith(f"{part}.")}
        torch.save(own, folder / f"{part}--1000_checkpoint.pt")
    _write_parts(folder, tensors)
    language = {"hidden_size": sizes.language.width, "num_hidden_layers": sizes.language.layers, "intermediate_size": sizes.language.mlp_width}
    language |= {"num_attention_heads": sizes.language.heads, "vocab_size": sizes.vocabulary}
    about = {"model_type": "openvla", "use_fused_vision_backbone": True, "image_resize_strategy": "resize-naive", "n_action_bins": 256}
    _write(folder / "config.json", {**about, "text_config": {"model_type": "llama", **language}, "pad_to_multiple_of": sizes.filling})
    numbers = {"action": _bounds(7), "proprio": _bounds(8)}
    _write(folder / "dataset_statistics.json", {"libero_goal": numbers})
    _write(folder / "preprocessor_config.json", {"means": [[0.5] * 3] * 2, "stds": [[0.5] * 3] * 2})


def groot(folder: Path) -> None:
    """In NVIDIA's layout: weights in two files, and the statistics of one embodiment."""
    sizes = GrootModel.tiny()

    def transformer(size: GrootTransformer) -> dict[str, Any]:
        return {"num_layers": size.layers, "num_attention_heads": size.heads, "attention_head_dim": size.head_size, "positional_embeddings": None}

    head = {"add_pos_embed": True, "use_vlln": True, "num_inference_timesteps": 4, "vl_self_attention_cfg": transformer(sizes.prefix_attention)}
    head["diffusion_model_cfg"] = {**transformer(sizes.denoiser), "interleave_self_attention": True, "norm_type": "ada_norm"}
    about = {"model_type": "gr00t_n1_5", "action_horizon": sizes.horizon, "backbone_cfg": {"reproject_vision": False}}
    _write(folder / "config.json", {**about, "action_head_cfg": head})
    _write(folder / "added_tokens.json", {"<IMG_CONTEXT>": sizes.language.image_token})
    _write_parts(folder, _tensors(GR00T(sizes)))
    (folder / "experiment_cfg").mkdir()
    state = {"arm": {**_bounds(6), "mask": None}, "gripper": _bounds(2)}
    action = {"arm": _bounds(6), "gripper": _bounds(1)}
    modalities: dict[str, Any] = {"video": {"image": {}, "wrist_image": {}}, "state": {key: {} for key in state}, "action": {key: {} for key in action}}
    _write(folder / "experiment_cfg/metadata.json", {"new_embodiment": {"statistics": {"state": state, "action": action}, "modalities": modalities}})


def kept(folder: Path) -> None:
    """A saved policy that came in lerobot's layout, and keeps what an export needs."""
    came = folder.with_name(f"{folder.name} came")
    export(came, "pi0", "lerobot")
    save_ours(folder, PolicyConfig(name="pi0", chunk=2, checkpoint=came, options=FED))
    shutil.rmtree(came)


FAMILIES: Mapping[str, str] = {
    **{kind: config.name for kind, config in OURS.items()},
    **{kind: family for kind, (family, _) in EXPORTED.items()},
    "openpi pi0": "pi0",
    "openpi pi05": "pi05",
    "openvla": "openvla_oft",
    "groot": "groot",
    "kept pi0": "pi0",
}
"""Each kind of folder, and the name of its policy in a recipe."""


def write_good(kind: str, folder: Path) -> None:
    """Write a good folder of a kind into the empty `folder`."""
    others: Mapping[str, Callable[[Path], None]] = {
        "openpi pi0": lambda folder: openpi(folder, "pi0"),
        "openpi pi05": lambda folder: openpi(folder, "pi05"),
        "openvla": openvla,
        "groot": groot,
        "kept pi0": kept,
    }
    if kind in OURS:
        save_ours(folder, OURS[kind])
    elif kind in EXPORTED:
        export(folder, *EXPORTED[kind])
    else:
        others[kind](folder)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.02 * torch.randn(tensor.shape, generator=generator) for name, tensor in network.state_dict().items()}


def _write_parts(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: tensors[name].contiguous() for name in own}, folder / file, {"format": "pt"})
    _write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}})


def _bounds(size: int) -> dict[str, Any]:
    low, high = [-1.0] * size, [1.0] * size
    return {"min": low, "max": high, "mean": [0.0] * size, "std": high, "q01": low, "q99": high}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content))
