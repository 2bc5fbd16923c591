"""The policy as whole copies, one on each rank. In shards it is in fsdp.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from rlvla3.policies.base import Policy
from rlvla3.training.ranks import Ranks


class DataParallel:
    """A policy of which every rank has a whole copy. One rank alone is the case in which nothing needs to be said.

    A tensor of the policy's, of its gradients or of what is kept beside them is the rank's own; `whole` makes it what it would be on one rank.
    """

    owes = False
    """Whether gradients of passes that were not the last still wait for the one that is, and the ranks so have to make one."""

    def __init__(self, policy: Policy, ranks: Ranks) -> None:
        self.policy, self.ranks = policy, ranks

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`. last: before `sum_gradients`. All ranks call it equally often."""
        loss.backward()

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make gradients what they would be, had one rank made all passes."""
        self.ranks.sum_gradients(parameters)

    def whole(self, tensor: Tensor) -> Tensor:
        """All ranks call it together."""
        return tensor

    def exchange(self, parameters: Sequence[nn.Parameter], tensors: list[Tensor]) -> None:
        """Let the parameters have these values, and `tensors` the values they had. Nothing is copied: they point elsewhere."""
        for place, parameter in enumerate(parameters):
            parameter.data, tensors[place] = tensors[place], parameter.data

    def published(self) -> Mapping[str, Tensor]:
        """Where rank 0 finds the whole weights that are to travel, once `gather_published` has been called."""
        return self.policy.published()

    def gather_published(self) -> None:
        """Bring what `published` gave up to date. All ranks call it together."""
