"""Make tests/references/smolvla/lerobot.safetensors: what lerobot's SmolVLA samples at tiny size from given noise.

Run it from the repository's root, in a Python 3.12 environment with lerobot 0.6.1 (torch 2.11, transformers 5.5.4):
`PYTHONPATH=. python scripts/references/smolvla_lerobot.py`. Nothing is downloaded: lerobot's class gets the configuration of its vision-language model from
here. For each case of tests/support/smolvla_references.py the file holds `CASE.actions` [3, 6, 32], and `CASE.prefix` [3, P, 64], the final tokens of the
prefix. Its metadata holds all parameter names. The script also prints the number of parameters at the published size.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from lerobot.policies.common.vla_utils import make_att_2d_masks
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import VLAFlowMatching
from safetensors.torch import save_file
from torch import Tensor
from transformers import SmolVLMConfig

from tests.support.smolvla_references import CASES, STEPS, inputs, sizes, weights

FILE = Path("tests/references/smolvla/lerobot.safetensors")

PUBLISHED: dict[str, Any] = {
    "vision": {"image": 512, "patch": 16, "width": 768, "layers": 12, "mlp_width": 3072, "heads": 12},
    "shuffle": 4,
    "language": {"width": 960, "layers": 32, "mlp_width": 2560, "heads": 15, "key_value_heads": 5, "head_size": 64},
    "vocabulary": 49280,
}
"""SmolVLM2-500M-Video-Instruct, of which lerobot keeps the first 16 layers."""


def vlm_config(size: dict[str, Any]) -> SmolVLMConfig:
    vision, text = size["vision"], size["language"]
    return SmolVLMConfig(
        scale_factor=size["shuffle"],
        vision_config={
            "hidden_size": vision["width"],
            "intermediate_size": vision["mlp_width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["heads"],
            "image_size": vision["image"],
            "patch_size": vision["patch"],
        },
        text_config={
            "model_type": "llama",
            "hidden_size": text["width"],
            "intermediate_size": text["mlp_width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "num_key_value_heads": text["key_value_heads"],
            "head_dim": text["head_size"],
            "rms_norm_eps": 1e-5,
            "vocab_size": size["vocabulary"],
            "pad_token_id": 2,
        },
        tie_word_embeddings=False,
    )


def build(size: dict[str, Any], config: SmolVLAConfig) -> VLAFlowMatching:
    tokenizer = SimpleNamespace(fake_image_token_id=61, global_image_token_id=62)
    library = "lerobot.policies.smolvla.smolvlm_with_expert"
    with (
        patch(f"{library}.AutoConfig.from_pretrained", lambda name: vlm_config(size)),
        patch(f"{library}.AutoProcessor.from_pretrained", lambda name: SimpleNamespace(tokenizer=tokenizer)),
    ):
        return VLAFlowMatching(config).eval()


def prefix_tokens(network: VLAFlowMatching, given: list[Any]) -> Tensor:
    embedded, mask, blocks = network.embed_prefix(*given)
    outputs, _ = network.vlm_with_expert.forward(
        attention_mask=make_att_2d_masks(mask, blocks),
        position_ids=torch.cumsum(mask, dim=1) - 1,
        past_key_values=None,
        inputs_embeds=[embedded, None],
        use_cache=True,
    )
    return outputs[0]


@torch.no_grad()
def main() -> None:
    with torch.device("meta"):
        network = build(PUBLISHED, SmolVLAConfig(device="cpu"))
    counts = {part: sum(p.numel() for name, p in network.named_parameters() if part in name) for part in ("", "lm_head", "vision_model", "lm_expert")}
    print("parameters at the published size:", counts)
    made, names = {}, {}
    raw = inputs()
    given = [list(raw["images"].unbind(1)), list(raw["image_mask"].unbind(1)), raw["tokens"], raw["token_mask"], raw["state"]]
    for case, changes in CASES.items():
        size, every = sizes(case), changes.get("self_attention_every", 2)
        config = SmolVLAConfig(
            device="cpu",
            chunk_size=size["horizon"],
            n_action_steps=size["horizon"],
            num_steps=STEPS,
            num_vlm_layers=0,
            num_expert_layers=changes.get("expert_layers", -1),
            attention_mode="self_attn" if every == 1 else "cross_attn",
            self_attn_every_n_layers=every,
            add_image_special_tokens="image_start" in changes,
        )
        network = build(size, config)
        network.load_state_dict(weights(network.state_dict()))
        made[f"{case}.actions"] = network.sample_actions(*given, noise=raw["noise"]).contiguous()
        made[f"{case}.prefix"] = prefix_tokens(network, given).contiguous()
        names[case] = sorted(network.state_dict())
        print(case, made[f"{case}.actions"].std(), made[f"{case}.prefix"].shape)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    save_file(made, FILE, {"names": json.dumps(names)})
    FILE.chmod(0o644)


if __name__ == "__main__":
    main()
