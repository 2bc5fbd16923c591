"""Weights of openpi's JAX code: params/, which the library orbax reads. Each of our tensors is a part of one of theirs, turned.

Written again, they are openpi's PyTorch weights, which openpi's code loads as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlvla3.checkpoints.pi_names import EXPERT, LANGUAGE, UNUSED, VISION
from rlvla3.checkpoints.weight_files import StoredTensor, WeightFiles
from rlvla3.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

Turn = Literal["as_is", "flat", "transposed", "into_heads", "vision_into_heads", "from_heads", "patches", "positions"]
"""How a tensor of theirs becomes one of ours. N heads of size H, and width D. `flat`: one dimension. `into_heads`: [N, D, H] -> [N H, D].
`vision_into_heads`: [D, N, H] -> [N H, D]. `from_heads`: [N, H, D] -> [D, N H]. `patches`: [height, width, channels, D] -> [D, channels, height, width].
`positions`: [1, P, D] -> [P, D]."""


class Part(NamedTuple):
    """Where our tensor lies in theirs: at `place` of the tensor `theirs`, behind the layer's number if our name has one."""

    theirs: str
    turn: Turn
    place: tuple[int, ...] = ()

    def of(self, array: NDArray[Any], layer: tuple[int, ...]) -> NDArray[Any]:
        """Our tensor, of theirs."""
        return turned(array[(*layer, *self.place)], self.turn)


def parts() -> dict[str, Part]:
    """Our name -> where it is. {layer} stands for the number of a layer. The norms of the expert are those of pi0, or those of pi0.5."""
    image = "PaliGemma/img"
    found = {
        f"{VISION}.embeddings.patch_embedding.weight": Part(f"{image}/embedding/kernel", "patches"),
        f"{VISION}.embeddings.patch_embedding.bias": Part(f"{image}/embedding/bias", "as_is"),
        f"{VISION}.embeddings.position_embedding.weight": Part(f"{image}/pos_embedding", "positions"),
        f"{VISION}.post_layernorm.weight": Part(f"{image}/Transformer/encoder_norm/scale", "as_is"),
        f"{VISION}.post_layernorm.bias": Part(f"{image}/Transformer/encoder_norm/bias", "as_is"),
        "paligemma_with_expert.paligemma.model.multi_modal_projector.linear.weight": Part(f"{image}/head/kernel", "transposed"),
        "paligemma_with_expert.paligemma.model.multi_modal_projector.linear.bias": Part(f"{image}/head/bias", "as_is"),
        f"{LANGUAGE}.embed_tokens.weight": Part("PaliGemma/llm/embedder/input_embedding", "as_is"),
    }
    found |= _vision_layer() | _decoder(LANGUAGE, "") | _decoder(EXPERT, "_1")
    for name in ("state_proj", "action_in_proj", "action_out_proj", "action_time_mlp_in", "action_time_mlp_out", "time_mlp_in", "time_mlp_out"):
        found |= {f"{name}.weight": Part(f"{name}/kernel", "transposed"), f"{name}.bias": Part(f"{name}/bias", "as_is")}
    return found


def _vision_layer() -> dict[str, Part]:
    ours, theirs = f"{VISION}.encoder.layers.{{layer}}", "PaliGemma/img/Transformer/encoderblock"
    attention = f"{theirs}/MultiHeadDotProductAttention_0"
    found = {
        f"{ours}.self_attn.out_proj.weight": Part(f"{attention}/out/kernel", "from_heads"),
        f"{ours}.self_attn.out_proj.bias": Part(f"{attention}/out/bias", "as_is"),
    }
    for number in (0, 1):
        found[f"{ours}.layer_norm{number + 1}.weight"] = Part(f"{theirs}/LayerNorm_{number}/scale", "as_is")
        found[f"{ours}.layer_norm{number + 1}.bias"] = Part(f"{theirs}/LayerNorm_{number}/bias", "as_is")
        found[f"{ours}.mlp.fc{number + 1}.weight"] = Part(f"{theirs}/MlpBlock_0/Dense_{number}/kernel", "transposed")
        found[f"{ours}.mlp.fc{number + 1}.bias"] = Part(f"{theirs}/MlpBlock_0/Dense_{number}/bias", "as_is")
    for name in ("query", "key", "value"):
        found[f"{ours}.self_attn.{name[0]}_proj.weight"] = Part(f"{attention}/{name}/kernel", "vision_into_heads")
        found[f"{ours}.self_attn.{name[0]}_proj.bias"] = Part(f"{attention}/{name}/bias", "flat")
    return found


def _decoder(stack: str, expert: str) -> dict[str, Part]:
    """expert: what their names of this stack end with."""
    ours, theirs = f"{stack}.layers.{{layer}}", "PaliGemma/llm/layers"
    found = {
        f"{ours}.self_attn.q_proj.weight": Part(f"{theirs}/attn/q_einsum{expert}/w", "into_heads"),
        f"{ours}.self_attn.k_proj.weight": Part(f"{theirs}/attn/kv_einsum{expert}/w", "into_heads", (0,)),
        f"{ours}.self_attn.v_proj.weight": Part(f"{theirs}/attn/kv_einsum{expert}/w", "into_heads", (1,)),
        f"{ours}.self_attn.o_proj.weight": Part(f"{theirs}/attn/attn_vec_einsum{expert}/w", "from_heads"),
        f"{ours}.mlp.gate_proj.weight": Part(f"{theirs}/mlp{expert}/gating_einsum", "transposed", (0,)),
        f"{ours}.mlp.up_proj.weight": Part(f"{theirs}/mlp{expert}/gating_einsum", "transposed", (1,)),
        f"{ours}.mlp.down_proj.weight": Part(f"{theirs}/mlp{expert}/linear", "transposed"),
    }
    norms = {
        f"{ours}.input_layernorm": f"{theirs}/pre_attention_norm{expert}",
        f"{ours}.post_attention_layernorm": f"{theirs}/pre_ffw_norm{expert}",
        f"{stack}.norm": f"PaliGemma/llm/final_norm{expert}",
    }
    for norm, place in norms.items():
        found[f"{norm}.weight"] = Part(f"{place}/scale", "as_is")
        found[f"{norm}.dense.weight"] = Part(f"{place}/Dense_0/kernel", "transposed")
        found[f"{norm}.dense.bias"] = Part(f"{place}/Dense_0/bias", "as_is")
    return found


def turned(array: NDArray[Any], turn: Turn) -> NDArray[Any]:
    """One of their tensors, or a part of it, as ours."""
    if turn == "flat":
        return array.reshape(-1)
    if turn == "transposed":
        return array.T
    if turn == "into_heads":
        return array.transpose(0, 2, 1).reshape(-1, array.shape[1])
    if turn == "vision_into_heads":
        return array.reshape(len(array), -1).T
    if turn == "from_heads":
        return array.reshape(-1, array.shape[-1]).T
    if turn == "patches":
        return array.transpose(3, 2, 0, 1)
    return array.reshape(array.shape[-2:]) if turn == "positions" else array


class JaxWeights(WeightFiles):
    """The tensors of params/ as those of openpi's PyTorch code. All of them are read when the first one is asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises RecipeError where orbax is not installed, or where params/ cannot be read or has a tensor of no known name."""
        self._params, self._orbax = folder / "params", _orbax(folder / "params")
        try:
            metadata = self._orbax.PyTreeCheckpointer().metadata(self._params.resolve())
        except Exception as error:  # orbax raises types of its own, and those of the file formats under it
            raise RecipeError(f"{self._params} cannot be read by orbax: {error}. Copy the checkpoint again") from error
        item = getattr(metadata, "item_metadata", metadata)
        self._tree = getattr(item, "tree", item)
        shapes = {_bare(name): (tuple(leaf.shape), str(np.dtype(leaf.dtype))) for name, leaf in _flat(self._tree["params"])}
        self._places = dict(places_of({name: shape for name, (shape, _) in shapes.items()}))
        if unknown := sorted(shapes.keys() - {part.theirs for part, _ in self._places.values()}):
            raise RecipeError(f"{self._params} has tensors that are not known here: {', '.join(unknown[:20])}. Is it a checkpoint of pi0 or pi0.5?")
        file = folder / "model.safetensors"  # where they will be when they are written again
        stored = {}
        for name, (part, layer) in self._places.items():
            shape, dtype = shapes[part.theirs]
            like = np.broadcast_to(np.zeros((), np.bool_), shape)  # it takes no memory
            stored[name] = StoredTensor(file, name, part.of(like, layer).shape, {"bfloat16": "BF16"}.get(dtype, "F32"))
        words, width = stored[f"{LANGUAGE}.embed_tokens.weight"].shape[0], stored["action_in_proj.weight"].shape[0]
        stored[UNUSED[0]] = StoredTensor(file, UNUSED[0], (words, width), "F32")
        super().__init__(stored)

    def tensor(self, name: str) -> Tensor:
        import torch

        if name in UNUSED:  # JAX's code has no such tensor, and openpi's PyTorch code wants to find one
            return torch.zeros(self[name].shape)
        part, layer = self._places[name]
        array = np.ascontiguousarray(part.of(self._arrays[part.theirs], layer))
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array.astype(np.float32))

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        restore = self._orbax.ArrayRestoreArgs(restore_type=np.ndarray)
        tree = {"params": self._tree["params"]}
        arguments = self._orbax.args.PyTreeRestore(item=tree, restore_args=_mapped(tree, restore))
        restored = self._orbax.PyTreeCheckpointer().restore(self._params.resolve(), args=arguments)
        return {_bare(name): np.asarray(leaf) for name, leaf in _flat(restored["params"])}


def _orbax(params: Path) -> Any:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # else jax takes most of a GPU's memory, and only numpy's arrays are wanted
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise RecipeError(
            f"{params} holds weights of openpi's JAX code, and the package that reads them is not installed: pip install orbax-checkpoint jax, or convert them "
            f"with openpi's examples/convert_jax_model_to_pytorch.py, copy assets/ beside, and give that folder"
        ) from error
    return orbax.checkpoint


def places_of(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[Part, tuple[int, ...]]]]:
    """Our name, the part, and the layer's number, for all tensors that there are."""
    for name, part in parts().items():
        if part.theirs in shapes:
            if "{layer}" not in name:
                yield name, (part, ())
                continue
            for layer in range(shapes[part.theirs][0]):
                yield name.format(layer=layer), (part, (layer,))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _mapped(tree: Mapping[str, Any], leaf: Any) -> dict[str, Any]:
    """The same tree, with `leaf` at every end."""
    return {key: _mapped(value, leaf) if isinstance(value, Mapping) else leaf for key, value in tree.items()}


def _bare(name: str) -> str:
    """Checkpoints of a training run have "value" behind every name."""
    return name.removesuffix("/value")
