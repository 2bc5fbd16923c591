"""The settings of the weight plane."""

from __future__ import annotations

from rlvla3.choices import CarrierName, OnHost, WireType
from rlvla3.config.section import Section, Workers


class WeightsConfig(Section):
    """How new weights travel from the trainer to the generators."""

    dtype: WireType = "as_trained"
    """The number format in which weights travel. `as_trained` changes nothing. `bf16` halves the bytes of float32 matrices; vectors and scalars stay float32.
    Generators then decide with rounded weights, and the log-probs that they record belong to the rounded weights."""

    on_host: OnHost = "shared_memory"
    """Where the versions of a host are stored. `shared_memory` is host memory. `cuda_ipc` is the memory of the trainer's GPU: generators copy from there
    without passing through host memory. It needs space for two more copies of the trained weights, and works on one host only (`runtime: local`)."""

    fanout: Workers = 2
    """How many hosts fetch a version from the same host. The hosts form a tree. Only `runtime: ray` with several hosts uses it."""

    carrier: CarrierName = "tcp"
    """What carries a version from one host to the next. `tcp` needs only a port that is protected by a key, imports no torch, and was as fast as gloo where
    both were measured (`rlvla3 bench weights`). `gloo` is a process group of two hosts, in host memory. `nccl` is one on their GPUs. Only `runtime: ray` with
    several hosts uses it."""
