"""The carriers by name: tcp stands here, and the process groups in process_groups.py."""

from __future__ import annotations

import importlib.util
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlvla3.choices import CarrierName
from rlvla3.errors import RecipeError
from rlvla3.links.weights.between_hosts import wire
from rlvla3.links.weights.between_hosts.carrier import Carrier, Piece
from rlvla3.links.weights.between_hosts.wire import LinkError


class TcpCarrier(Carrier):
    """Over the edge's own connection: nothing to meet for, no other port, none but those who know the key."""

    piece_bytes = 4 << 20

    async def meet(self) -> None:
        """They have."""

    def _give(self, pieces: Iterable[Piece]) -> None:
        with _blocking(self.connection):
            for piece in pieces:
                self.connection.sendall(piece.data)

    def _take(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        with _blocking(self.connection):
            for piece in pieces:
                self._fill(piece.data)
                yield piece

    def _fill(self, room: memoryview) -> None:
        limit = time.monotonic() + wire.STALL_S
        while room:
            received = self.connection.recv_into(room)
            if not received:
                raise LinkError("the other host has closed the connection")
            if time.monotonic() > limit:
                raise LinkError(f"the other host has not moved a piece in {wire.STALL_S:g} s")
            room = room[received:]

    def _abort(self) -> None:
        with suppress(OSError):  # the other host was faster
            self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def _blocking(connection: socket.socket) -> Iterator[None]:
    """Its calls block, for STALL_S at most, while this is entered."""
    connection.settimeout(wire.STALL_S)
    try:
        yield
    finally:
        connection.setblocking(False)


def carrier_class(name: CarrierName) -> type[Carrier]:
    """Torch is imported for a process group alone."""
    if name == "tcp":
        return TcpCarrier
    from rlvla3.links.weights.between_hosts import process_groups

    return process_groups.GlooCarrier if name == "gloo" else process_groups.NcclCarrier


def check_carrier(name: CarrierName) -> None:
    """Raises RecipeError where this host cannot do it. Without importing torch, where a torch that is built for no GPU says so."""
    if name == "nccl":
        if _cuda_of_torch() is None:
            raise RecipeError("weights.carrier=nccl needs NCCL, and the torch of this host is built without: install one for CUDA, or set weights.carrier=tcp")
        import torch

        if not torch.distributed.is_nccl_available() or not torch.cuda.is_available():
            raise RecipeError("weights.carrier=nccl needs NCCL and a CUDA device on every host, and this one has not both: set weights.carrier=tcp")


def _cuda_of_torch() -> str | None:
    """The CUDA that the installed torch is built for: what its version.py, which imports nothing of it, says."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None and torch.origin is not None
    spec = importlib.util.spec_from_file_location("version_of_torch", Path(torch.origin).with_name("version.py"))
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(version := importlib.util.module_from_spec(spec))
    cuda: str | None = version.cuda
    return cuda
