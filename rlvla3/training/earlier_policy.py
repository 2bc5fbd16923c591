"""An earlier version of the actor, and its log-probs of the decisions of the present update.

Training uses two of them: the proximal policy, which is the policy at the start of the update, and the frozen reference policy of a run.

Invariants:
- an earlier policy evaluates a decision at most once in an update, whatever the number of epochs, because its log-probs are kept;
- log-probs stay on the device. Which of them are known stands on the host, so nobody waits for the device to ask that;
- either all ranks make a forward pass or none does, because a pass may gather weights from all ranks;
- the policy's own weights are back in place whenever `logprob` returns or raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.training.data_parallel import DataParallel
from rlvla3.training.recorded import on_device

Evaluate = Callable[[NDArray[np.int64], NDArray[np.int64]], Tensor]
"""From (ticket, row) pairs to the log-probs [n, C, A] of the recorded actions, under the policy's present weights."""


class EarlierPolicy:
    """A copy of an actor's weights, and log-probs under them, by ticket and row.

        earlier.begin(tickets)                    # an update begins: no log-prob is known
        earlier.record(tickets, rows, logprob)    # these log-probs are known without an evaluation
        earlier.keep_weights()                    # the present weights are the earlier policy from now on
        earlier.logprob(tickets, rows)            # evaluates what is not known

    Until weights are kept, the present policy is the earlier policy.
    """

    def __init__(self, parallel: DataParallel, rows: int, evaluate: Evaluate) -> None:
        self._parallel, self._rows, self._evaluate = parallel, rows, evaluate
        self._parameters = list(parallel.policy.acting_tensors().values())
        self.weights: list[Tensor] | None = None
        self._logprobs: Tensor | None = None

    def begin(self, tickets: range) -> None:
        """Forget the log-probs of the last update."""
        self._tickets, self._logprobs = tickets, None
        self._known = np.zeros(len(tickets) * self._rows, bool)

    def keep_weights(self, weights: Sequence[Tensor] | None = None) -> None:
        """Keep a copy of `weights`, one tensor for each of the policy's acting_tensors. None means the present weights."""
        copied = self._parameters if weights is None else weights
        with torch.no_grad():
            self.weights = [torch.empty_like(parameter).copy_(tensor) for tensor, parameter in zip(copied, self._parameters, strict=True)]

    def drop_weights(self) -> None:
        """Forget the weights. The present policy is the earlier policy again."""
        self.weights = None

    def record(self, tickets: NDArray[np.int64], rows: NDArray[np.int64], logprob: Tensor, which: NDArray[np.bool_] | None = None) -> None:
        """Record log-probs [n, C, A] that are known without an evaluation. which: bool [n], those that are recorded. None means all."""
        if which is not None and not which.any():
            return
        if self._logprobs is None:
            like = self._parameters[0]
            shape = (len(self._known), *logprob.shape[1:])
            self._logprobs = torch.full(shape, float("nan"), dtype=torch.promote_types(torch.float32, like.dtype), device=like.device)
        places = self._places(tickets, rows)
        if which is not None and not which.all():
            places, logprob = places[which], logprob.index_select(0, on_device(np.flatnonzero(which), logprob.device))
        self._logprobs.index_copy_(0, on_device(places, self._logprobs.device), logprob.detach().to(self._logprobs))
        self._known[places] = True

    def logprob(self, tickets: NDArray[np.int64], rows: NDArray[np.int64]) -> Tensor:
        """The log-probs [n, C, A] under the earlier weights, without gradient. Log-probs that are not known are evaluated and kept. n must not be 0."""
        places = self._places(tickets, rows)
        missing = ~self._known[places]
        if self._parallel.ranks.any(bool(missing.any())):
            evaluated = missing if missing.any() else np.arange(len(tickets)) == 0  # all ranks make the pass: evaluate a known one again
            with torch.no_grad(), self._earlier_weights():
                logprob = self._evaluate(tickets[evaluated], rows[evaluated])
            if missing.any():
                self.record(tickets[missing], rows[missing], logprob)
        assert self._logprobs is not None
        return self._logprobs.index_select(0, on_device(places, self._logprobs.device))

    def _places(self, tickets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the log-probs of (ticket, row) pairs are kept: [n]."""
        return (tickets - self._tickets.start) * self._rows + rows

    @contextmanager
    def _earlier_weights(self) -> Iterator[None]:
        """The policy has the earlier weights within the block."""
        if self.weights is None:
            yield
            return
        self._parallel.exchange(self._parameters, self.weights)
        try:
            yield
        finally:
            self._parallel.exchange(self._parameters, self.weights)
