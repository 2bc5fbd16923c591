"""The policy as whole copies, one on each rank. fsdp.py lays it out in shards instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from rlvla3.policies.base import Policy
from rlvla3.training.ranks import Ranks


class DataParallel:
    """A policy that each rank has a whole copy of. With one rank, nothing is communicated.

    A tensor of the policy, of its gradients or of its optimizer state belongs to the rank. `whole` returns the tensor that a single rank would have.
    """

    gradients_pending = False
    """Whether some gradients are not reduced over the ranks yet, because no backward pass since was the last one. Then all ranks must make one more pass."""

    def __init__(self, policy: Policy, ranks: Ranks) -> None:
        self.policy, self.ranks = policy, ranks

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`. last: this is the last backward pass before `sum_gradients`. All ranks must call it equally often."""
        loss.backward()

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum the gradients over all ranks. The result is the gradient that one rank would have after all passes."""
        self.ranks.sum_gradients(parameters)

    def whole(self, tensor: Tensor) -> Tensor:
        """The whole tensor. All ranks must call it together."""
        return tensor

    def exchange(self, parameters: Sequence[Tensor], tensors: list[Tensor]) -> None:
        """Swap the values of the policy's tensors with `tensors`. Nothing is copied: both get the other's storage."""
        for place, parameter in enumerate(parameters):
            parameter.data, tensors[place] = tensors[place], parameter.data

    def published(self) -> Mapping[str, Tensor]:
        """The whole weights to publish. They are valid on rank 0, after `gather_published`."""
        return self.policy.published()

    def gather_published(self) -> None:
        """Update the tensors that `published` returns. All ranks must call it together."""


def own_part(tensor: Tensor) -> Tensor:
    """This rank's shard of a DTensor. Any other tensor as it is. (No isinstance: the import of DTensor takes a second.)"""
    tensor = tensor.detach()
    own: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own
