"""The policy in shards: a rank keeps a part of each parameter, of its gradient and of its moments (FSDP2; Zhao et al., "PyTorch FSDP", arXiv 2304.11277).

Each block and the rest of the policy are gathered for their pass and let go again. The critic is small, and its replay makes steps of its own between passes:
every rank has a whole copy of it.

Invariants:
- between two passes nothing but shards is kept, so whoever writes to a shard changes what the next pass sees;
- gradients are summed once an optimizer step, in float32 at least, whatever the passes are computed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import register_dataclass

from rlvla3.policies.base import Evaluation, Policy, PolicyError
from rlvla3.training.data_parallel import DataParallel
from rlvla3.training.ranks import Ranks

register_dataclass(Evaluation)  # FSDP hooks onto the tensors of what a pass returns, and has to find them

PASSES = ("evaluate", "clone_loss")
"""The policy's methods that FSDP gathers the weights for. `value_of` is none: it uses the critic alone."""


class FullySharded(DataParallel):
    """A policy whose parameters, the critic's apart, are DTensors from now on. precision: of the blocks' passes. Raises PolicyError where there are none."""

    def __init__(self, policy: Policy, ranks: Ranks, precision: Literal["fp32", "bf16"]) -> None:
        super().__init__(policy, ranks)
        critic = set(policy.critic_parameters())
        # In low precision: only the blocks, where the work is. What leads from them to log-probs stays as exact as in the generators.
        low = MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32) if precision == "bf16" else MixedPrecisionPolicy()
        blocks = [block for block in policy.sharded_blocks() if critic.isdisjoint(block.parameters())]
        if precision == "bf16" and not blocks:
            raise PolicyError(f"training.precision=bf16 is for a policy's blocks, and {type(policy).__name__} has none: set training.precision=fp32")
        mesh = init_device_mesh(next(policy.parameters()).device.type, (ranks.size,))
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=low, reshard_after_forward=True)
        self._root = fully_shard(policy, mesh=mesh, reshard_after_forward=True, ignored_params=critic)
        for name in PASSES:
            register_fsdp_forward_method(policy, name)
        policy.register_load_state_dict_pre_hook(_take_own_part)
        self._published: dict[str, Tensor] = {}

    def backward(self, loss: Tensor, last: bool) -> None:
        self._root.set_requires_gradient_sync(last)
        self._root.set_is_last_backward(last)
        loss.backward()
        self.owes = not last

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for gradient in gradients:
            if isinstance(gradient, DTensor):
                gradient.mul_(self.ranks.size)  # FSDP has made a mean of it
        super().sum_gradients([parameter for parameter in parameters if not isinstance(parameter, DTensor)])

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def exchange(self, parameters: Sequence[nn.Parameter], tensors: list[Tensor]) -> None:
        """In place: FSDP gathers from the memory that it laid out, wherever a parameter points to."""
        for parameter, tensor in zip(parameters, tensors, strict=True):
            here, there = _shard(parameter), _shard(tensor)
            kept = here.clone()
            here.copy_(there)
            there.copy_(kept)

    def published(self) -> Mapping[str, Tensor]:
        if not self._published:
            own = self.policy.published()
            self._published = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for name, tensor in own.items()}
        return self._published

    def gather_published(self) -> None:
        for name, tensor in self.policy.published().items():
            whole = self.whole(tensor)  # one at a time: together they may not fit
            if self.ranks.first:
                self.published()
                self._published[name].copy_(whole)


def _shard(tensor: Tensor) -> Tensor:
    shard: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return shard.detach()


def _take_own_part(policy: nn.Module, whole: dict[str, Any], *_: Any) -> None:
    """Before `load_state_dict`: of each whole tensor, the shard that is this rank's."""
    own = policy.state_dict()
    for name, tensor in whole.items():
        mine = own.get(name)
        if isinstance(mine, DTensor) and not isinstance(tensor, DTensor):
            whole[name] = distribute_tensor(tensor.to(mine.device), mine.device_mesh, mine.placements, src_data_rank=None)
