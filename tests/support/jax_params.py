"""Tiny params of openpi's JAX code: the names and shapes of its own, and random numbers. It imports numpy and torch alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.named_weights import named_normal

VOCABULARY = 50


def sizes() -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Of the vision tower, the language model and the expert. The width of the language model is that of its heads together, as openpi's converter needs it."""
    vision = {"width": 32, "layers": 2, "mlp_width": 20, "heads": 16, "head_size": 2, "patch": 14, "side": 3}
    language = {"width": 24, "layers": 3, "mlp_width": 28, "heads": 4, "head_size": 6}
    return vision, language, {**language, "width": 10, "mlp_width": 14}


def jax_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor."""
    vision, language, expert = sizes()
    width, layers, heads = vision["width"], vision["layers"], (vision["heads"], vision["head_size"])
    block, attention = "PaliGemma/img/Transformer/encoderblock", "PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0"
    shapes: dict[str, tuple[int, ...]] = {
        "PaliGemma/img/embedding/kernel": (vision["patch"], vision["patch"], 3, width),
        "PaliGemma/img/embedding/bias": (width,),
        "PaliGemma/img/pos_embedding": (1, vision["side"] ** 2, width),
        "PaliGemma/img/head/kernel": (width, language["width"]),
        "PaliGemma/img/head/bias": (language["width"],),
        "PaliGemma/llm/embedder/input_embedding": (VOCABULARY, language["width"]),
        f"{block}/MlpBlock_0/Dense_0/kernel": (layers, width, vision["mlp_width"]),
        f"{block}/MlpBlock_0/Dense_0/bias": (layers, vision["mlp_width"]),
        f"{block}/MlpBlock_0/Dense_1/kernel": (layers, vision["mlp_width"], width),
        f"{block}/MlpBlock_0/Dense_1/bias": (layers, width),
        f"{attention}/out/kernel": (layers, *heads, width),
        f"{attention}/out/bias": (layers, width),
    }
    for kind in ("scale", "bias"):
        shapes |= {f"PaliGemma/img/Transformer/encoder_norm/{kind}": (width,)}
        shapes |= {f"{block}/LayerNorm_{number}/{kind}": (layers, width) for number in (0, 1)}
    for name in ("query", "key", "value"):
        shapes |= {f"{attention}/{name}/kernel": (layers, width, *heads), f"{attention}/{name}/bias": (layers, *heads)}
    return shapes | _decoder(language, "", False) | _decoder(expert, "_1", family == "pi05") | _projections(expert["width"], family)


def _decoder(size: dict[str, int], end: str, adaptive: bool) -> dict[str, tuple[int, ...]]:
    layers, width, heads, head_size, mlp = (size[name] for name in ("layers", "width", "heads", "head_size", "mlp_width"))
    place = "PaliGemma/llm/layers"
    shapes: dict[str, tuple[int, ...]] = {
        f"{place}/attn/q_einsum{end}/w": (layers, heads, width, head_size),
        f"{place}/attn/kv_einsum{end}/w": (layers, 2, 1, width, head_size),
        f"{place}/attn/attn_vec_einsum{end}/w": (layers, heads, head_size, width),
        f"{place}/mlp{end}/gating_einsum": (layers, 2, width, mlp),
        f"{place}/mlp{end}/linear": (layers, mlp, width),
    }
    for name, stack in ((f"{place}/pre_attention_norm", (layers,)), (f"{place}/pre_ffw_norm", (layers,)), ("PaliGemma/llm/final_norm", ())):
        if adaptive:
            shapes |= {f"{name}{end}/Dense_0/kernel": (*stack, width, 3 * width), f"{name}{end}/Dense_0/bias": (*stack, 3 * width)}
        else:
            shapes[f"{name}{end}/scale"] = (*stack, width)
    return shapes


def _projections(width: int, family: str) -> dict[str, tuple[int, ...]]:
    sides = {"action_in_proj": (32, width), "action_out_proj": (width, 32)}
    if family == "pi0":
        sides |= {"state_proj": (32, width), "action_time_mlp_in": (2 * width, width), "action_time_mlp_out": (width, width)}
    else:
        sides |= {"time_mlp_in": (width, width), "time_mlp_out": (width, width)}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (inputs, outputs) in sides.items():
        shapes |= {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}
    return shapes


def jax_params(family: str) -> dict[str, NDArray[np.float32]]:
    """Name -> random numbers."""
    return {name: named_normal(name, *shape).numpy() for name, shape in jax_shapes(family).items()}


def nested(flat: dict[str, Any], value: bool = False) -> dict[str, Any]:
    """The tree that orbax writes. value: as a training run has it, with "value" behind every name."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *path, last = f"{name}/value".split("/") if value else name.split("/")
        branch = tree
        for key in path:
            branch = branch.setdefault(key, {})
        branch[last] = leaf
    return tree


def ramp_sum(array: NDArray[Any]) -> float:
    """A sum of all numbers, each times its place."""
    return float(array.astype(np.float64).reshape(-1) @ np.arange(1, array.size + 1) / array.size)
