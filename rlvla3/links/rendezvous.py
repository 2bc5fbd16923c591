"""Where the ranks of a trainer meet. The process that starts them need not import torch for it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import NamedTuple

LOOPBACK = "127.0.0.1"


class MeetingPoint(NamedTuple):
    host: str
    port: int


@dataclass(frozen=True)
class Rendezvous:
    """One rank's way to the others, an argument of its process. local_rank: its number among the ranks that see the same GPUs. listener: rank 0's alone, the
    socket that is bound to `address` already.

    The port is taken before anybody is told of it, so nobody else can take it in between, and nothing of it stands in any file system.
    """

    rank: int
    size: int
    address: MeetingPoint
    local_rank: int = 0
    listener: socket.socket | None = None


def meet_on_this_host(size: int) -> list[Rendezvous]:
    """The rendezvous of `size` ranks on this host, rank 0's first. Whoever starts them closes the listener afterwards: theirs is a copy."""
    listener = socket.create_server((LOOPBACK, 0))
    address = MeetingPoint(*listener.getsockname())
    return [Rendezvous(rank, size, address, rank, listener if rank == 0 else None) for rank in range(size)]
