"""Where the ranks of a trainer meet. The process that starts them does not import torch for it."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from typing import NamedTuple

LOOPBACK = "127.0.0.1"


class MeetingPoint(NamedTuple):
    """Where rank 0 is met. key: the ranks sign with it what they send one another (training/signed_messages.py). It never goes over their sockets."""

    host: str
    port: int
    key: bytes


def meeting_point(listener: socket.socket) -> MeetingPoint:
    """The meeting point of a rank 0 that listens there, with a new key."""
    host, port = listener.getsockname()[:2]
    return MeetingPoint(host, port, secrets.token_bytes(32))


@dataclass(frozen=True)
class Rendezvous:
    """How one rank reaches the others. It is an argument of the rank's process.

    local_rank: its number among the ranks that see the same GPUs. listener: only for rank 0, the socket that is bound to `address`. The port is bound before
    any rank is told of it, so no other program can take it in between. Nothing of it stands in a file system.
    """

    rank: int
    size: int
    address: MeetingPoint
    local_rank: int = 0
    listener: socket.socket | None = None


def meet_on_this_host(size: int) -> list[Rendezvous]:
    """The rendezvous of `size` ranks on this host, that of rank 0 first. The caller closes the listener after starting rank 0, which has a copy."""
    listener = socket.create_server((LOOPBACK, 0))
    address = meeting_point(listener)
    return [Rendezvous(rank, size, address, rank, listener if rank == 0 else None) for rank in range(size)]
