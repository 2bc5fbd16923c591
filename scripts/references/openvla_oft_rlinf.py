"""Make tests/references/openvla_oft/rlinf.safetensors: what RLinf feeds OpenVLA-OFT and the log-probs that it trains it with, at tiny size.

RLinf leaves out the stop token, pads prompts between the token of beginning and the text, and takes a batch at a time. Run it as openvla_oft.py beside it, with
RLinf's sources (commit a3816b5) on the path as well: `PYTHONPATH=.:OPENVLA_OFT:RLINF python scripts/references/openvla_oft_rlinf.py`

logprobs, entropy: float32 [3, 56], of `tokens` at a temperature of 1.6. tokens: int64 [3, 56], from 0 to 255.
images: float32 [2, 6, 14, 14], every 16th row and column of what the towers see of the frames of tests/support/openvla_references.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import openvla_oft as reference
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.named_weights import named_normal
from tests.support.openvla_references import ACTION_TOKENS, frames, inputs, sizes, weights

TEMPERATURE = 1.6


def without_its_packages() -> None:
    """Put empty packages in the place of those that import RLinf's configuration and its workers."""
    name = "rlinf.models.embodiment.openvla_oft"
    root = next(Path(folder) for folder in sys.path if (Path(folder) / "rlinf" / "models").is_dir())
    for package in (name, f"{name}.rlinf"):
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(root / package.replace(".", "/"))]
    for package, missing in (("rlinf.scheduler", "Worker"), ("rlinf.utils.metric_utils", "compute_loss_mask")):
        sys.modules[package] = ModuleType(package)
        setattr(sys.modules[package], missing, None)


def seen() -> Tensor:
    from rlinf.models.embodiment.prismatic.processing_prismatic import PrismaticImageProcessor

    processor = PrismaticImageProcessor(
        use_fused_vision_backbone=True,
        image_resize_strategy="resize-naive",
        input_sizes=[[3, 224, 224]] * 2,
        interpolations=["bicubic"] * 2,
        means=[[0.484375, 0.455078125, 0.40625], [0.5, 0.5, 0.5]],
        stds=[[0.228515625, 0.2236328125, 0.224609375], [0.5, 0.5, 0.5]],
    )
    images = processor(frames("scene").permute(0, 3, 1, 2)[:, None], return_tensors="pt")["pixel_values"]
    return images[:, 0, :, ::16, ::16].contiguous()


@torch.no_grad()
def main() -> None:
    reference.prepare()
    without_its_packages()
    from rlinf.models.embodiment.openvla_oft.rlinf.openvla_oft_action_model import OpenVLAOFTForRLActionPrediction

    size, given = sizes("tokens"), inputs("tokens")
    reference.shrink(size)
    config = reference.authors_network(size).config
    config.unnorm_key = "tiny"
    network = OpenVLAOFTForRLActionPrediction(config, action_dim=7, num_action_chunks=8, add_value_head=False, max_prompt_length=12).eval()
    network.load_state_dict(weights(network.state_dict()))
    order = torch.cat([given["token_mask"][:, :1], given["token_mask"][:, 1:].flip(1)], 1)
    ids = given["tokens"].clone()
    for row, mask in enumerate(order):
        ids[row, mask] = given["tokens"][row][given["token_mask"][row]]
        ids[row, ~mask] = 32000
    tokens = (named_normal("chosen", 3, 56).abs() * 100).long().clamp(max=255)
    found = network.default_forward(
        forward_inputs={
            "input_ids": ids,
            "attention_mask": order,
            "pixel_values": given["images"].flatten(1, 2),
            "action_tokens": (tokens + ACTION_TOKENS.start).view(3, 8, 7),
        },
        compute_logprobs=True,
        compute_entropy=True,
        temperature=TEMPERATURE,
        top_k=-1,
    )
    tensors = {"images": seen(), "tokens": tokens, "logprobs": found["logprobs"].contiguous(), "entropy": found["entropy"].contiguous()}
    save_file(tensors, reference.FOLDER / "rlinf.safetensors", {"sizes": json.dumps(size), "temperature": str(TEMPERATURE)})
    print({name: (tuple(tensor.shape), tensor.double().mean().item(), tensor.double().std().item()) for name, tensor in tensors.items()})


if __name__ == "__main__":
    main()
