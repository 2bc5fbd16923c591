"""What a CUDA graph cannot hold, found on the CPU: operations that wait for the device, or that copy from the host to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {"_local_scalar_dense", "nonzero", "nonzero_static", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal", "is_nonzero", "bincount"}
"""Their result is needed on the host, or its size depends on the values."""


class Watch(TorchDispatchMode):
    """Notes every operation that a graph could not hold.

    with Watch() as watch:
        policy.act(...)
    assert not watch.found
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named, self.count = named or {}, self.count + 1
        name = function._schema.name.removeprefix("aten::")
        if name in WAITS or name == "lift_fresh" or (name == "repeat_interleave" and function._overloadname == "Tensor"):
            self.found.append(name)
        if name == "_to_copy" and named.get("device") is not None:
            self.found.append(f"{name} to {named['device']}")
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            self.found += [f"{name} by a mask" for index in arguments[1] if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)]
        return function(*arguments, **named)
