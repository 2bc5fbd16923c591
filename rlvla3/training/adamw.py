"""AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", arXiv 1711.05101): fused on a GPU.

Invariant: the state of both kinds has the same names and shapes. Only the count of steps lies elsewhere: on the GPU where AdamW is fused, and on the host else.
So a checkpoint of one kind resumes with the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor

STEP = "step"
MOMENTS = (STEP, "exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter."""


class _AdamW(torch.optim.AdamW):
    """torch's AdamW without what it does for code that is compiled. For that it imports the whole compiler, which takes longer than all else that a trainer
    does before its first update."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)


def make_adamw(parameters: Iterable[Any], device: torch.device, **settings: Any) -> torch.optim.AdamW:
    """AdamW of `parameters`, or of groups of them, which are on `device`. Fused: one kernel makes the step of many parameters."""
    return _AdamW(parameters, fused=True if device.type == "cuda" else None, **settings)


def where_it_belongs(kind: str, tensor: Tensor, optimizer: torch.optim.AdamW, parameter: Tensor) -> Tensor:
    """One tensor of a parameter's state, on the device where `optimizer` needs it. kind: one of MOMENTS."""
    if kind != STEP:
        return tensor
    return tensor.to(parameter.device if optimizer.defaults["fused"] else "cpu")
