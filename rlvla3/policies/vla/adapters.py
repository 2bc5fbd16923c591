"""Low-rank adapters (LoRA) on the linear layers of a network, by peft.

Invariant: a network with new adapters computes what it computed without them, because their second matrices begin at 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

from rlvla3.errors import RecipeError
from rlvla3.policies.vla.options import LoRAOptions

ADAPTER = "default"
"""peft's name for the only adapter."""

WRAPPED = ".base_layer"
"""peft keeps the layer that it adapts under this name."""


def add_adapters(network: nn.Module, modules: Iterable[nn.Module], options: LoRAOptions) -> None:
    """Put adapters beside all linear layers of `modules`, which are modules of `network`."""
    adapted = {layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)}
    names = [name for name, layer in network.named_modules() if layer in adapted]
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise RecipeError("policy.options.lora needs the package peft, which is not installed: pip install 'rlvla3[vla]'") from error
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    inject_adapter_in_model(LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=names, lora_dropout=0.0), network, ADAPTER)
    for parameter in trained:  # peft freezes everything but its adapters
        parameter.requires_grad_(True)


def base_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of the network itself, under the names that they have without adapters."""
    return {name.replace(WRAPPED, ""): tensor for name, tensor in network.state_dict(keep_vars=True).items() if ".lora_" not in name}


def merged_tensors(state: Mapping[str, Tensor], options: LoRAOptions | None) -> dict[str, Tensor]:
    """The tensors of a network's state with its adapters merged into the layers: W + alpha / rank B A, under the names without adapters."""
    merged = {name.replace(WRAPPED, ""): tensor for name, tensor in state.items() if ".lora_" not in name}
    for layer, down, up in _adapters(state):
        assert options is not None
        weight = merged[f"{layer}.weight"]
        change = options.alpha / options.rank * (up.double() @ down.double())
        merged[f"{layer}.weight"] = (weight.double() + change.to(weight.device)).to(weight.dtype)
    return merged


def adapter_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapters alone, under peft's names in its own files."""
    return {name.replace(f".{ADAPTER}", ""): tensor for name, tensor in state.items() if ".lora_" in name}


def _adapters(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(layer, A [rank, in], B [out, rank]) of each adapter."""
    for name, down in state.items():
        layer, found, _ = name.partition(f".lora_A.{ADAPTER}")
        if found:
            yield layer, down, state[f"{layer}.lora_B.{ADAPTER}.weight"]
