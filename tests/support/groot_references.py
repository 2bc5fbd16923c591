"""GR00T's random weights and configuration, the same for the authors' code and for ours.

The script in scripts/references imports it in the environment of the authors' code, so it needs numpy, torch and pydantic alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rlvla3.policies.groot.options import GrootModel, GrootTransformer
from tests.support.named_weights import named_weights


def groot_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A weight for every tensor of a state. Norms scale by about 1, and the weights of an embodiment are scaled by their inputs alone."""
    weights = named_weights(state)
    for name, weight in weights.items():
        if weight.dim() == 1 and name.endswith("weight") and not name.endswith(("layer_norm1.weight", "layer_norm2.weight", "post_layernorm.weight")):
            weight.add_(1)
        elif weight.dim() == 3:
            weight.mul_(weight.shape[-1] ** 0.5)
    return weights


def groot_config(sizes: GrootModel) -> dict[str, Any]:
    """The config.json of NVIDIA's checkpoints, with sizes of ours."""

    def transformer(size: GrootTransformer) -> dict[str, Any]:
        heads = {"num_layers": size.layers, "num_attention_heads": size.heads, "attention_head_dim": size.head_size}
        return {**heads, "dropout": 0.2, "final_dropout": True, "positional_embeddings": None}

    denoiser = {"interleave_self_attention": True, "norm_type": "ada_norm", "cross_attention_dim": sizes.prefix_width, "output_dim": sizes.hidden}
    head = {
        "action_dim": sizes.action_size,
        "action_horizon": sizes.horizon,
        "add_pos_embed": True,
        "backbone_embedding_dim": sizes.prefix_width,
        "diffusion_model_cfg": {**transformer(sizes.denoiser), **denoiser},
        "hidden_size": sizes.hidden,
        "input_embedding_dim": sizes.denoiser.width,
        "max_action_dim": sizes.action_size,
        "max_num_embodiments": sizes.embodiments,
        "max_seq_len": sizes.positions,
        "max_state_dim": sizes.state_size,
        "num_inference_timesteps": 4,
        "num_target_vision_tokens": sizes.future_tokens,
        "num_timestep_buckets": sizes.buckets,
        "use_vlln": True,
        "vl_self_attention_cfg": transformer(sizes.prefix_attention),
    }
    backbone = {"project_to_dim": None, "reproject_vision": False, "select_layer": sizes.language.layers}
    return {
        "action_dim": sizes.action_size,
        "action_head_cfg": head,
        "action_horizon": sizes.horizon,
        "architectures": ["GR00T_N1_5"],
        "backbone_cfg": backbone,
        "compute_dtype": "bfloat16",
        "model_type": "gr00t_n1_5",
        "torch_dtype": "bfloat16",
    }
