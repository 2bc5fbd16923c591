"""Make tests/references/pi/lerobot-*.safetensors: what lerobot's pi0 and pi0.5 sample at tiny size from given noise.

Run it from the repository's root, in a Python 3.12 environment with lerobot 0.6.1 (torch 2.11, transformers 5.5.4):
`PYTHONPATH=. python scripts/references/pi_lerobot.py`. Each file also holds the names of the parameters, and their number at the published size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.pi05 import modeling_pi05
from safetensors.torch import save_file

from tests.support.named_weights import named_weights
from tests.support.pi_references import STEPS, inputs, sizes

FOLDER = Path("tests/references/pi")
FAMILIES = {
    "pi0": (modeling_pi0, modeling_pi0.PI0Pytorch, modeling_pi0.PI0Config),
    "pi05": (modeling_pi05, modeling_pi05.PI05Pytorch, modeling_pi05.PI05Config),
}


def shrink(library: ModuleType, size: dict[str, Any]) -> None:
    """Make lerobot's classes build a tiny network. Most of its sizes stand in its code, so they are changed just before transformers sees them."""

    def gemma(name: str) -> Any:
        part = size["language" if name == "gemma_2b" else "expert"]
        return library.GemmaConfig(part["width"], part["layers"], part["mlp_width"], part["heads"], part["key_value_heads"], part["head_size"])

    def paligemma(build: Callable[..., Any]) -> Callable[..., Any]:
        def tiny(config: Any) -> Any:
            vision = size["vision"]
            config.text_config.vocab_size = size["vocabulary"]
            config.vision_config.projection_dim = size["language"]["width"]
            config.vision_config.hidden_size, config.vision_config.intermediate_size = vision["width"], vision["mlp_width"]
            config.vision_config.num_hidden_layers, config.vision_config.num_attention_heads = vision["layers"], vision["heads"]
            config.vision_config.patch_size = vision["patch"]
            return build(config=config)

        return tiny

    def expert(build: Callable[..., Any]) -> Callable[..., Any]:
        def tiny(config: Any) -> Any:
            config.vocab_size = size["vocabulary"]
            return build(config=config)

        return tiny

    library.get_gemma_config = gemma
    library.PaliGemmaForConditionalGenerationWithPiGemma = paligemma(library.PaliGemmaForConditionalGenerationWithPiGemma)
    library.PiGemmaForCausalLM = expert(library.PiGemmaForCausalLM)


@torch.no_grad()
def main() -> None:
    for variant, (library, network_class, config_class) in FAMILIES.items():
        with torch.device("meta"):
            network = network_class(config_class(device="cpu"))
        published = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        size = sizes(variant)
        shrink(library, size)
        network = network_class(config_class(device="cpu", chunk_size=size["horizon"], n_action_steps=size["horizon"], image_resolution=(42, 42))).eval()
        weights = named_weights(network.state_dict())
        embeddings = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
        weights["paligemma_with_expert.paligemma.lm_head.weight"] = weights[embeddings]
        network.load_state_dict(weights)
        given = inputs()
        images, image_masks = list(given["images"].unbind(1)), list(given["image_mask"].unbind(1))
        state = [given["state"]] if variant == "pi0" else []
        actions = network.sample_actions(images, image_masks, given["tokens"], given["token_mask"], *state, noise=given["noise"], num_steps=STEPS)
        metadata = {"sizes": size, "names": sorted(network.state_dict()), "parameters": sum(math.prod(shape) for shape in published.values())}
        FOLDER.mkdir(parents=True, exist_ok=True)
        save_file({"actions": actions.contiguous()}, FOLDER / f"lerobot-{variant}.safetensors", {key: json.dumps(value) for key, value in metadata.items()})
        print(variant, actions.shape, actions.std().item())


if __name__ == "__main__":
    main()
