"""Make tests/references/pi/openpi-*.safetensors: what openpi's PyTorch code of pi0 and pi0.5 samples at tiny size from given noise.

Run it from the repository's root, in a Python 3.11 environment with torch 2.13 and transformers 4.53.2, over which the files of openpi's
`models_pytorch/transformers_replace` are copied (openpi at commit 15a9616). jax is not needed: the two modules of openpi that import it are replaced here.
`PYTHONPATH=.:OPENPI/src python scripts/references/pi_openpi.py`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file

from tests.support.named_weights import named_weights
from tests.support.pi_references import STEPS, inputs, sizes

FOLDER = Path("tests/references/pi")


def gemma_sizes(part: dict[str, Any]) -> SimpleNamespace:
    names = {"width": "width", "depth": "layers", "mlp_dim": "mlp_width", "num_heads": "heads", "num_kv_heads": "key_value_heads", "head_dim": "head_size"}
    return SimpleNamespace(**{theirs: part[ours] for theirs, ours in names.items()})


def without_jax(size: dict[str, Any]) -> None:
    """Put modules of ours in the place of those that import jax: the table of Gemma's sizes, and the image processing, which this run does not use."""
    sizes_module = ModuleType("openpi.models.gemma")
    sizes_module.get_config = lambda name: gemma_sizes(size["language" if name == "gemma_2b" else "expert"])  # type: ignore[attr-defined]
    sys.modules["openpi.models"] = ModuleType("openpi.models")
    sys.modules["openpi.models"].gemma = sizes_module  # type: ignore[attr-defined]
    sys.modules["openpi.models.gemma"] = sizes_module
    sys.modules["openpi.models_pytorch.preprocessing_pytorch"] = ModuleType("preprocessing_pytorch")


def shrink(size: dict[str, Any]) -> None:
    """Change the sizes that stand in openpi's code, just before transformers sees them."""
    from openpi.models_pytorch import gemma_pytorch

    def paligemma(build: Callable[..., Any]) -> Callable[..., Any]:
        def tiny(config: Any) -> Any:
            vision = size["vision"]
            config.text_config.vocab_size = config._vocab_size = config.image_token_index = size["vocabulary"]
            config.vision_config.projection_dim = size["language"]["width"]
            config.vision_config.hidden_size, config.vision_config.intermediate_size = vision["width"], vision["mlp_width"]
            config.vision_config.num_hidden_layers, config.vision_config.num_attention_heads = vision["layers"], vision["heads"]
            config.vision_config.image_size, config.vision_config.patch_size = vision["image"], vision["patch"]
            return build(config=config)

        return tiny

    def expert(build: Callable[..., Any]) -> Callable[..., Any]:
        def tiny(config: Any) -> Any:
            config.vocab_size = size["vocabulary"]
            return build(config=config)

        return tiny

    gemma_pytorch.PaliGemmaForConditionalGeneration = paligemma(gemma_pytorch.PaliGemmaForConditionalGeneration)
    gemma_pytorch.GemmaForCausalLM = expert(gemma_pytorch.GemmaForCausalLM)


@torch.no_grad()
def sample(variant: str) -> None:
    from openpi.models_pytorch.pi0_pytorch import PI0Pytorch

    size, given = sizes(variant), inputs()
    network = PI0Pytorch(
        SimpleNamespace(
            pi05=variant == "pi05",
            paligemma_variant="gemma_2b",
            action_expert_variant="gemma_300m",
            dtype="float32",
            action_dim=32,
            action_horizon=size["horizon"],
            pytorch_compile_mode=None,
        )
    ).eval()
    weights = named_weights(network.state_dict())
    tied = "paligemma_with_expert.paligemma.lm_head.weight"
    weights[tied] = weights["paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"]
    network.load_state_dict(weights)
    observation = (list(given["images"].unbind(1)), list(given["image_mask"].unbind(1)), given["tokens"], given["token_mask"], given["state"])
    network._preprocess_observation = lambda _, train: observation
    actions = network.sample_actions("cpu", SimpleNamespace(state=given["state"]), noise=given["noise"], num_steps=STEPS)
    metadata = {"sizes": json.dumps(size), "names": json.dumps(sorted(network.state_dict()))}
    save_file({"actions": actions.contiguous()}, FOLDER / f"openpi-{variant}.safetensors", metadata)
    print(variant, actions.shape, actions.std().item())


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for variant in ("pi0", "pi05"):
        if variant == "pi0":
            without_jax(sizes(variant))
            shrink(sizes(variant))
        sample(variant)


if __name__ == "__main__":
    main()
