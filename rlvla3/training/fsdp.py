"""The policy in shards: each rank keeps a part of each parameter, of its gradient and of its moments (FSDP2; Zhao et al., "PyTorch FSDP", arXiv 2304.11277).

FSDP gathers the weights of a block for its pass and frees them afterwards. The critic is not sharded: every rank has a whole copy. It is small, and its extra
passes take optimizer steps of their own.

Invariants:
- between two passes only shards are kept. So a change of a shard changes what the next pass computes;
- gradients are summed once for each optimizer step, in float32 or a wider type, whatever the precision of the passes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import register_dataclass

from rlvla3.policies.base import Evaluation, Policy
from rlvla3.training.data_parallel import DataParallel
from rlvla3.training.ranks import Ranks

register_dataclass(Evaluation)  # FSDP places hooks on the tensors that a pass returns, so it must find them inside of an Evaluation

PASSES = ("evaluate", "clone_loss")
"""The methods of a policy that FSDP gathers weights for. `value_of` is not one of them: it uses only the critic."""


class FullySharded(DataParallel):
    """A policy whose parameters become DTensors, except those of the critic.

    Where the policy computes in bf16, the weights of its blocks are gathered in bf16. That is half the traffic, and no cast is left to the passes.
    """

    def __init__(self, policy: Policy, ranks: Ranks) -> None:
        super().__init__(policy, ranks)
        # It warns of in-place changes of what a pass returns, and there are none here.
        warnings.filterwarnings("ignore", message=".*returned a view tensor")
        critic = set(policy.critic_parameters())
        # Autocast sees to the layers around the blocks, as it does in the generators.
        low = MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32) if policy.precision == "bf16" else MixedPrecisionPolicy()
        blocks = [block for block in policy.sharded_blocks() if critic.isdisjoint(block.parameters())]
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
        self.gradients_pending = not last

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for gradient in gradients:
            if isinstance(gradient, DTensor):
                gradient.mul_(self.ranks.size)  # FSDP computes the mean over ranks
        super().sum_gradients([parameter for parameter in parameters if not isinstance(parameter, DTensor)])

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def exchange(self, parameters: Sequence[Tensor], tensors: list[Tensor]) -> None:
        """Swap the values by copies: FSDP gathers from the storage that it allocated, not from where a parameter points."""
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
            whole = self.whole(tensor)  # one tensor at a time, because all of them together may not fit into memory
            if self.ranks.first:
                self.published()
                self._published[name].copy_(whole)


def _shard(tensor: Tensor) -> Tensor:
    shard: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return shard.detach()


def _take_own_part(policy: nn.Module, whole: dict[str, Any], *_: Any) -> None:
    """Runs before `load_state_dict`: replaces each whole tensor by this rank's shard of it."""
    own = policy.state_dict()
    for name, tensor in whole.items():
        mine = own.get(name)
        if isinstance(mine, DTensor) and not isinstance(tensor, DTensor):
            whole[name] = distribute_tensor(tensor.to(mine.device), mine.device_mesh, mine.placements, src_data_rank=None)
