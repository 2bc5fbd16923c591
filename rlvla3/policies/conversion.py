"""Converts the data plane's arrays to tensors and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.policies.base import Decisions, Observations


def observations_from(arrays: Mapping[str, NDArray[Any]], instructions: Sequence[str]) -> Observations:
    """A batch of observations from arrays [B, ...] with the names of `types.observation_layout`. The tensors share memory with the arrays."""
    return observations_of({name: torch.from_numpy(array) for name, array in arrays.items()}, instructions)


def observations_of(tensors: Mapping[str, Tensor], instructions: Sequence[str]) -> Observations:
    """A batch of observations from tensors [B, ...] with the names of `types.observation_layout`."""
    images = {name.removeprefix("image."): tensor for name, tensor in tensors.items() if name.startswith("image.")}
    return Observations(images, tensors["state"], tensors["elapsed"], instructions)


def trace_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the sampling trace, under the policy's own names."""
    return {name.removeprefix("trace."): tensor for name, tensor in tensors.items() if name.startswith("trace.")}


def arrays_from(decisions: Decisions, version: int) -> dict[str, Any]:
    """A batch of decisions as arrays, with the names of `types.decision_layout`."""
    arrays = {"actions": decisions.actions, "logprob": decisions.logprob, "value": decisions.value}
    arrays |= {f"trace.{name}": tensor for name, tensor in decisions.trace.items()}
    return {name: tensor.float().cpu().numpy() if tensor.is_floating_point() else tensor.cpu().numpy() for name, tensor in arrays.items()} | {
        "version": version
    }
