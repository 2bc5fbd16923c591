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
    """Pieces go over the connection of the edge. It needs no other port, and only hosts that know the key can use it."""

    piece_bytes = 4 << 20

    async def meet(self) -> None:
        """Nothing to do: the connection is there."""

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
        with suppress(OSError):  # the other host has closed it already
            self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def _blocking(connection: socket.socket) -> Iterator[None]:
    """Inside of the `with`, calls on the connection block, for STALL_S at most."""
    connection.settimeout(wire.STALL_S)
    try:
        yield
    finally:
        connection.setblocking(False)


def carrier_class(name: CarrierName) -> type[Carrier]:
    """The carrier of that name. Torch is imported only for a process group."""
    if name == "tcp":
        return TcpCarrier
    from rlvla3.links.weights.between_hosts import process_groups

    return process_groups.GlooCarrier if name == "gloo" else process_groups.NcclCarrier


def check_carrier(name: CarrierName) -> None:
    """Raises RecipeError if this host cannot use the carrier. It does not import a torch that was built without CUDA."""
    if name == "nccl":
        if _cuda_of_torch() is None:
            raise RecipeError("weights.carrier=nccl needs NCCL, and the torch of this host is built without: install one for CUDA, or set weights.carrier=tcp")
        import torch

        if not torch.distributed.is_nccl_available() or not torch.cuda.is_available():
            raise RecipeError("weights.carrier=nccl needs NCCL and a CUDA device on every host, and this one has not both: set weights.carrier=tcp")


def _cuda_of_torch() -> str | None:
    """The version of CUDA that the installed torch was built for (None: without CUDA). It is read from torch's version.py, without importing torch."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None and torch.origin is not None
    spec = importlib.util.spec_from_file_location("version_of_torch", Path(torch.origin).with_name("version.py"))
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(version := importlib.util.module_from_spec(spec))
    cuda: str | None = version.cuda
    return cuda
