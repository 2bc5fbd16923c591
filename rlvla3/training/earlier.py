"""The actor as it was at an earlier moment, and what it thinks of the decisions of the present update.

Two of them train with the present policy: the proximal policy, which the update began with, and the frozen reference policy of a run.

Invariants:
- a decision is evaluated by an earlier policy at most once an update, whatever the number of epochs: its log-probs are kept;
- all ranks make a pass or none does: the pass may gather weights from all of them;
- the policy's own weights are in place again whenever `logprob` returns or raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.training.data_parallel import DataParallel

Evaluate = Callable[[NDArray[np.int64], NDArray[np.int64]], Tensor]
"""From (ticket, row) pairs to the log-probs [n, C, A] that the policy, as its weights now are, gives to what was done there."""


class EarlierPolicy:
    """Copies of an actor's weights, and log-probs under them, by ticket and row.

        earlier.begin(tickets)                    # an update begins: nothing is known of its decisions
        earlier.remember(tickets, rows, logprob)  # known for free
        earlier.take()                            # the weights, as they are now, are those that the rest is to be evaluated by
        earlier.logprob(tickets, rows)

    Before anything is taken, the policy that is there is the earlier one.
    """

    def __init__(self, parallel: DataParallel, rows: int, evaluate: Evaluate) -> None:
        self._parallel, self._rows, self._evaluate = parallel, rows, evaluate
        self._parameters = parallel.policy.actor_parameters()
        self.weights: list[Tensor] | None = None
        self._known: Tensor | None = None

    def begin(self, tickets: range) -> None:
        """Forget the log-probs: they were of another update's decisions."""
        self._tickets, self._known = tickets, None

    def take(self, weights: Sequence[Tensor] | None = None) -> None:
        """Keep a copy of `weights`, one for each of the actor's parameters; by default of the present ones."""
        copied = self._parameters if weights is None else weights
        with torch.no_grad():
            self.weights = [torch.empty_like(parameter).copy_(tensor) for tensor, parameter in zip(copied, self._parameters, strict=True)]

    def release(self) -> None:
        """Forget the weights: the policy that is there is the earlier one again."""
        self.weights = None

    def remember(self, tickets: NDArray[np.int64], rows: NDArray[np.int64], logprob: Tensor) -> None:
        """These log-probs [n, C, A] are known without an evaluation."""
        if self._known is None:
            like = self._parameters[0]
            shape = (len(self._tickets), self._rows, *logprob.shape[1:])
            self._known = torch.full(shape, float("nan"), dtype=torch.promote_types(torch.float32, like.dtype), device=like.device)
        self._known[self._at(tickets, rows)] = logprob.detach().to(self._known)

    def logprob(self, tickets: NDArray[np.int64], rows: NDArray[np.int64]) -> Tensor:
        """The log-probs [n, C, A] under the earlier weights, without gradient. What is not known yet is evaluated, and known from then on. n is not 0."""
        unknown = self._unknown(tickets, rows)
        if self._parallel.ranks.any(bool(unknown.any())):
            taking_part = unknown if unknown.any() else np.arange(len(tickets)) == 0  # of what is known, one again
            with torch.no_grad(), self._in_place():
                logprob = self._evaluate(tickets[taking_part], rows[taking_part])
            if unknown.any():
                self.remember(tickets[unknown], rows[unknown], logprob)
        assert self._known is not None
        return self._known[self._at(tickets, rows)]

    def _unknown(self, tickets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        if self._known is None:
            return np.ones(len(tickets), bool)
        unknown: NDArray[np.bool_] = self._known[self._at(tickets, rows)].isnan().flatten(1).any(1).cpu().numpy()
        return unknown

    def _at(self, tickets: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(tickets - self._tickets.start), torch.from_numpy(rows)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The earlier weights in the policy, for as long as the block lasts."""
        if self.weights is None:
            yield
            return
        self._parallel.exchange(self._parameters, self.weights)
        try:
            yield
        finally:
            self._parallel.exchange(self._parameters, self.weights)
