"""What a CUDA graph cannot hold, found without one: operations that wait for the device, or that copy from the host to it.

It watches its own thread alone. torch.cuda.set_sync_debug_mode would stop other threads of the process, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = (
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "repeat_interleave.Tensor"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount"),
)
"""Operations whose result is needed on the host, or has a size that depends on values."""


class Watch(TorchDispatchMode):
    """Notes every operation within the block that a graph could not hold.

        with Watch() as watch:
            policy.act(...)
        watch.found             # ["_local_scalar_dense (item or a condition)"]

    count: operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Sequence[Any] = (), named: Mapping[str, Any] | None = None) -> Any:
        named = named or {}
        with self:  # in inference mode, operations come before they are taken apart
            parts = function.decompose(*arguments, **named)
        if parts is not NotImplemented:
            return parts
        self.count += 1
        self.found += _faults(function.name().removeprefix("aten::"), [*arguments, *named.values()], named)
        return function(*arguments, **named)


def _faults(name: str, given: Sequence[Any], named: Mapping[str, Any]) -> Iterator[str]:
    operation = name.partition(".")[0]
    if operation in WAITS or name in WAITS:
        yield f"{name} (its result is needed on the host, as by item(), by a condition, or by a size)"
    elif operation == "lift_fresh":
        yield f"{name} (a tensor was made of Python numbers: torch.tensor, or a list as an index)"
    elif operation == "_to_copy" and (named.get("device") or given[0].device) != given[0].device:
        yield f"{name} (a tensor moves to {named['device']})"
    elif operation in ("index", "index_put", "index_put_") and any(index.dtype in (torch.bool, torch.uint8) for index in _tensors(given[1])):
        yield f"{name} (a mask as an index)"
    elif len({tensor.device for tensor in _tensors(given) if tensor.dim()}) > 1:
        yield f"{name} (tensors of several devices)"


def _tensors(given: Iterable[Any]) -> Iterator[Tensor]:
    for value in given:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
