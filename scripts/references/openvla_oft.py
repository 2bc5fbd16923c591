"""Make tests/references/openvla_oft/network-*.safetensors: what the authors' code of OpenVLA-OFT answers at tiny size.

Run it from the repository's root, in a Python 3.12 environment with torch 2.11, transformers 4.40.1, tokenizers 0.19.1 and timm 0.9.10, beside the sources of
openvla-oft at commit 213c5ff: `PYTHONPATH=.:OPENVLA_OFT python scripts/references/openvla_oft.py`

The authors use a changed transformers 4.40.1, whose Llama attends in both directions. The same change is made here: no causal mask, only that of padding.
Their sizes stand in timm's models, so timm makes tiny ones here, of the same classes. Packages that their __init__ files import and this run does not need
are left out.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers.models.llama import modeling_llama

from tests.support.openvla_references import ACTION_TOKENS, cameras, inputs, sizes, weights

FOLDER = Path("tests/references/openvla_oft")
STATISTICS = {"q01": [-0.5 - 0.1 * i for i in range(7)], "q99": [0.7 + 0.2 * i for i in range(7)], "mask": [True] * 6 + [False]}
ALL = {**STATISTICS, "min": [-1.0] * 7, "max": [1.0] * 7}


def without_their_packages(sources: Path) -> None:
    """Put empty packages in the place of those whose __init__ imports the training code, and an empty diffusers."""
    for name in ("prismatic", "prismatic.extern", "prismatic.extern.hf", "prismatic.training", "prismatic.models", "prismatic.vla"):
        package = ModuleType(name)
        package.__path__ = [str(sources / name.replace(".", "/"))]
        sys.modules[name] = package
    scheduling = ModuleType("diffusers.schedulers.scheduling_ddim")
    scheduling.DDIMScheduler = None  # type: ignore[attr-defined]
    sys.modules["diffusers"] = sys.modules["diffusers.schedulers"] = ModuleType("diffusers")
    sys.modules["diffusers.schedulers.scheduling_ddim"] = scheduling


def shrink(size: dict[str, Any]) -> None:
    """Let timm make tiny towers, with the arguments of the ones that it knows by these names."""

    def tower(name: str, **_: Any) -> VisionTransformer:
        tiny = size["dino" if "dinov2" in name else "siglip"]
        own = {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True} if "dinov2" in name else {"class_token": False, "global_pool": "map"}
        return VisionTransformer(
            img_size=tiny["image"],
            patch_size=tiny["patch"],
            embed_dim=tiny["width"],
            depth=tiny["layers"],
            num_heads=tiny["heads"],
            mlp_ratio=tiny["mlp_width"] / tiny["width"],
            num_classes=0,
            **own,
        )

    timm.create_model = tower


def attend_in_both_directions() -> None:
    def only_padding(self: Any, attention_mask: Tensor, input_tensor: Tensor, *_: Any) -> Tensor:
        lowest = torch.finfo(input_tensor.dtype).min
        hidden = attention_mask.eq(0)[:, None, None].expand(-1, 1, input_tensor.shape[1], -1)
        return torch.zeros(hidden.shape, dtype=input_tensor.dtype).masked_fill(hidden, lowest)

    modeling_llama.LlamaModel._update_causal_mask = only_padding


def authors_network(size: dict[str, Any]) -> Any:
    from prismatic.extern.hf.configuration_prismatic import OpenVLAConfig
    from prismatic.extern.hf.modeling_prismatic import OpenVLAForActionPrediction

    language = size["language"]
    text = {
        "hidden_size": language["width"],
        "num_hidden_layers": language["layers"],
        "intermediate_size": language["mlp_width"],
        "num_attention_heads": language["heads"],
        "num_key_value_heads": language["key_value_heads"],
        "vocab_size": 32064,
        "pad_token_id": 32000,
    }
    config = OpenVLAConfig(
        norm_stats={"tiny": {"action": ALL}},
        vision_backbone_id="dinosiglip-vit-so-224px",
        llm_backbone_id="llama2-7b-pure",
        image_resize_strategy="resize-naive",
        text_config=text,
    )
    return OpenVLAForActionPrediction(config).eval()


def authors_heads(size: dict[str, Any]) -> dict[str, Any]:
    from prismatic.models.action_heads import L1RegressionActionHead
    from prismatic.models.projectors import ProprioProjector

    width = size["language"]["width"]
    modules = {"action_head": L1RegressionActionHead(width, width, 7), "proprio_projector": ProprioProjector(width, 8)}
    for part, module in modules.items():
        made = weights({f"{part}.{name}": tensor for name, tensor in module.state_dict().items()})
        module.load_state_dict({name.removeprefix(f"{part}."): tensor for name, tensor in made.items()})
    return modules


def shapes_of(network: Any, heads: dict[str, Any]) -> dict[str, list[int]]:
    """All tensors that the authors save, each with its shape. Those of the heads have their part's name in front."""
    parts = {"": network} | {f"{part}.": module for part, module in heads.items()}
    return {f"{part}{name}": list(tensor.shape) for part, module in parts.items() for name, tensor in module.state_dict().items()}


def published_parameters() -> dict[str, int]:
    """Parameters of the published size by part, in the authors' classes on the meta device: all that the network needs, and what it never uses."""
    from prismatic.extern.hf.configuration_prismatic import OpenVLAConfig
    from prismatic.extern.hf.modeling_prismatic import OpenVLAForActionPrediction
    from prismatic.models.action_heads import L1RegressionActionHead
    from prismatic.models.projectors import ProprioProjector

    text = {"vocab_size": 32064, "pad_token_id": 32000}
    linspace = torch.linspace
    torch.linspace = partial(linspace, device="cpu")  # timm reads numbers from it, and the meta device has none
    with torch.device("meta"):
        network = OpenVLAForActionPrediction(OpenVLAConfig(vision_backbone_id="dinosiglip-vit-so-224px", llm_backbone_id="llama2-7b-pure", text_config=text))
        regression, state = L1RegressionActionHead(4096, 4096, 7), ProprioProjector(4096, 8)
    torch.linspace = linspace
    towers = network.vision_backbone
    unused = [towers.featurizer.blocks[-1], towers.featurizer.norm]
    unused += [towers.fused_featurizer.blocks[-1], towers.fused_featurizer.norm, towers.fused_featurizer.attn_pool]
    return {
        "all": sum(parameter.numel() for parameter in network.parameters()),
        "unused": sum(parameter.numel() for module in unused for parameter in module.parameters()),
        "lm_head": network.language_model.lm_head.weight.numel(),
        "l1": sum(parameter.numel() for module in (regression, state) for parameter in module.parameters()),
    }


@torch.no_grad()
def answer(head: str, published: dict[str, int]) -> None:
    size, given = sizes(head), inputs(head)
    shrink(size)
    network = authors_network(size)
    network.vision_backbone.set_num_images_in_input(cameras(head))
    network.load_state_dict(weights(network.state_dict()))
    heads = authors_heads(size) if head == "l1" else {}
    shapes = shapes_of(network, heads)
    seen: list[Tensor] = []
    network.language_model.register_forward_hook(lambda module, args, output: seen.append(output.logits))
    actions, hidden = [], []
    for row in range(3):
        length = int(given["token_mask"][row].sum())
        state = {"proprio": given["state"][row].numpy()} if heads else {}
        found, slots = network.predict_action(
            given["tokens"][row : row + 1, :length],
            pixel_values=given["images"][row : row + 1].flatten(1, 2),
            attention_mask=torch.ones(1, length, dtype=torch.long),
            **state,
            **heads,
        )
        actions.append(torch.from_numpy(np.asarray(found)))
        hidden.append(slots[0])
    found = {"actions": torch.stack(actions), "hidden": torch.stack(hidden).contiguous()}
    if head == "tokens":
        logits = torch.stack([row[0, -58:-2] for row in seen])
        found |= {"logits": logits[..., ACTION_TOKENS].contiguous(), "tokens": logits.argmax(-1)}
        assert bool((found["tokens"] >= ACTION_TOKENS.start).all()) and bool((found["tokens"] < ACTION_TOKENS.stop).all())
    metadata = {"sizes": json.dumps(size), "shapes": json.dumps(shapes), "statistics": json.dumps(STATISTICS), "parameters": json.dumps(published)}
    save_file(found, FOLDER / f"network-{head}.safetensors", metadata)
    print(head, {name: (tuple(tensor.shape), tensor.double().std().item()) for name, tensor in found.items()})


def prepare() -> None:
    """Make the authors' code importable, and change what stands in it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    without_their_packages(next(Path(folder) for folder in sys.path if (Path(folder) / "prismatic").is_dir()))
    attend_in_both_directions()


def main() -> None:
    prepare()
    published = published_parameters()
    for head in ("tokens", "l1"):
        answer(head, published)


if __name__ == "__main__":
    main()
