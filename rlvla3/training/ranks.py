"""The trainer's ranks: processes that make one update together, each with its own tickets.

All communication between ranks goes through this file: the number of decisions that a gradient is divided by, statistics, metrics, common decisions. One rank
alone runs the same code, and each call returns the rank's own value.

Invariants:
- all ranks make the same calls in the same order. Whether a rank makes a call depends only on what all ranks know;
- each call returns the same bits on all ranks;
- what came from another rank is unpickled only where it is signed with the key of the run (signed_messages.py);
- no call waits for ever. Where a rank has ended, or does not answer within PATIENCE, the others raise RankLost.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from rlvla3.errors import ExplainedError
from rlvla3.links.rendezvous import LOOPBACK, Rendezvous
from rlvla3.training.signed_messages import sign_messages

T = TypeVar("T")

PATIENCE = timedelta(minutes=10)
"""How long a call waits for the other ranks. Ranks wait for trajectories outside of these calls, so they arrive here with only small differences in time: the
length of a micro-batch or of a file."""

PATIENCE_AT_START = timedelta(minutes=2)

BUCKET = 2**24
"""How many numbers are summed in one message. One message for each parameter would be slow. One message for all would need a second copy of all gradients."""


class RankLost(ExplainedError, RuntimeError):
    """Another rank has ended or does not answer. The log of that rank may say why."""


class Ranks:
    """A single rank. Each call returns the rank's own value."""

    rank, size = 0, 1
    group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this rank does what only one rank does: publish weights, write files, answer the coordinator."""
        return self.rank == 0

    def gather(self, own: T) -> list[T]:
        """The values of all ranks, in the order of ranks. Tensors of other ranks are on the CPU."""
        return [own]

    def broadcast(self, own: T) -> T:
        """The value of rank 0."""
        return own

    def sum(self, *own: float) -> tuple[float, ...]:
        """The sums over all ranks."""
        return own

    def maximum(self, own: int) -> int:
        return own

    def any(self, own: bool) -> bool:
        return bool(self.maximum(int(own)))

    def barrier(self) -> None:
        """Wait until all ranks have made this call."""
        self.maximum(0)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace the gradients by their sums over all ranks. On all ranks, the same parameters must have a gradient."""

    def separate_channel(self) -> Ranks:
        """The same ranks on a channel of their own, for another thread of this process."""
        return self

    def close(self) -> None:
        """Close the channel. No call may follow."""


SINGLE_RANK = Ranks()


class DistributedRanks(Ranks):
    """One of several ranks, each in a process of its own.

    device: where this rank computes. Gradients are exchanged from there, all else from the CPU. waiting: a context that is entered during each exchange.
    """

    def __init__(self, meeting: Rendezvous, device: torch.device | str = "cpu", waiting: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self.rank, self.size, self._waiting = meeting.rank, meeting.size, waiting
        if meeting.address.host == LOOPBACK:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # otherwise gloo resolves the host's name, which may have no route
        on_gpu = torch.device(device).type == "cuda"
        if on_gpu:
            torch.cuda.set_device(device)
        with self._exchange():
            sign_messages(meeting.address.key)
            store = dist.TCPStore(  # type: ignore[attr-defined]  # it is documented, but missing from __all__
                meeting.address.host,
                meeting.address.port,
                meeting.size,
                is_master=meeting.listener is not None,
                timeout=PATIENCE_AT_START,
                master_listen_fd=meeting.listener.detach() if meeting.listener else None,
            )
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE)

    def gather(self, own: T) -> list[T]:
        gathered: list[Any] = [None] * self.size
        with self._exchange():
            dist.all_gather_object(gathered, tree_map_only(Tensor, Tensor.cpu, own), group=self.group)
        return gathered

    def broadcast(self, own: T) -> T:
        value = [own]
        with self._exchange():
            dist.broadcast_object_list(value, src=0, group=self.group)
        return value[0]

    def sum(self, *own: float) -> tuple[float, ...]:
        numbers = torch.tensor(own, dtype=torch.float64)
        with self._exchange():
            dist.all_reduce(numbers, group=self.group)
        return tuple(numbers.tolist())

    def maximum(self, own: int) -> int:
        number = torch.tensor(own)
        with self._exchange():
            dist.all_reduce(number, dist.ReduceOp.MAX, group=self.group)
        return int(number)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            with self._exchange():
                dist.all_reduce(flat, group=self.group)
            for gradient, summed in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def separate_channel(self) -> DistributedRanks:
        other = copy.copy(self)
        other._waiting = nullcontext  # the other thread's waiting time is not this thread's
        with self._exchange():
            other.group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return other

    def close(self) -> None:
        dist.destroy_process_group()

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            with self._waiting():
                yield
        except RuntimeError as error:  # torch raises this type for all failures between processes: a closed connection, a timeout
            why = str(error).partition("\n")[0]
            raise RankLost(f"trainer rank {self.rank} does not hear from another rank: {why}. The logs of the other ranks say why") from error


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in groups of one dtype, in their order, with at most BUCKET numbers in a group (or one larger tensor)."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket: list[Tensor] = []
        for tensor in tensors:
            if tensor.dtype != dtype:
                continue
            if bucket and sum(each.numel() for each in bucket) + tensor.numel() > BUCKET:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket
