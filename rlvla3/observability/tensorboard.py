"""The watcher that writes events as TensorBoard curves."""

from __future__ import annotations

import importlib
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rlvla3.observability.appended_file import AppendedFile
from rlvla3.observability.curves import points
from rlvla3.observability.event_json import event_json
from rlvla3.observability.events import Event, Resumed
from rlvla3.observability.run_directory import RunDirectory


class TensorBoardWatcher:
    """Writes TensorBoard curves into the run directory. Their x axis is the update, for cloning the step.

    Where the run goes on from an update, TensorBoard hides the points after it that were written before.

    The entries are written here and not by tensorboardX's own writer: that one has a thread which ends with its first error, and then blocks its caller.
    """

    def __init__(self, run: RunDirectory) -> None:
        with _without_torch():
            importlib.import_module("tensorboardX")
        self._proto, self._summary = (importlib.import_module(f"tensorboardX.proto.{kind}_pb2") for kind in ("event", "summary"))
        self._checksum = importlib.import_module("tensorboardX.record_writer").masked_crc32c
        # The form of the name is TensorBoard's: it reads files in the order of their names.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = AppendedFile(run.path / name, head=self._entry(file_version="brain.Event:2"))

    def on(self, event: Event) -> None:
        match event:
            case Resumed(continuation):
                began = self._proto.SessionLog(status=self._proto.SessionLog.START)
                self._file.append(self._entry(step=continuation.accounts.version + 1, session_log=began))
            case _ if (line := event_json(event)) and (found := points(line)):
                self._write(found.values, found.step)

    def close(self) -> None:
        self._file.close()

    def _write(self, curves: Mapping[str, float], step: int) -> None:
        values = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in curves.items()]
        self._file.append(self._entry(step=step, summary=self._summary.Summary(value=values)))

    def _entry(self, **content: Any) -> bytes:
        """One entry of an event file, in TFRecord's format: length, its checksum, the event, its checksum."""
        event: bytes = self._proto.Event(wall_time=time.time(), **content).SerializeToString()
        length = struct.pack("<Q", len(event))
        return length + struct.pack("<I", self._checksum(length)) + event + struct.pack("<I", self._checksum(event))


@contextmanager
def _without_torch() -> Iterator[None]:
    """Hide torch from imports in this block. tensorboardX would import it (200 MB and a second) for one type annotation, and works without it."""
    absent: Any = None
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = absent
    try:
        yield
    finally:
        del sys.modules["torch"]
