"""machine.jsonl as curves, read again and again while the run goes on.

Invariants:
- memory is bounded, and curves keep their extremes: the fullest moment of a long run stays;
- where seconds step back, the run went on from an earlier update: what had been written of later seconds is left out;
- what is new is read, and for at most PATIENCE_S at a time. Until all of it is read, `complete` is False.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rlvla3.errors import RecipeError
from rlvla3.metadata import checked, parse_json
from rlvla3.observability.machine_use import FILE, GpuUse, MachineUse
from rlvla3.page.appended_lines import AppendedLines
from rlvla3.page.curves import Curve, Place, Point

PATIENCE_S = 1.0

NEWEST = 30
"""Lines that are kept whole: the last five minutes."""

MOST_GPUS = 64
"""A damaged file may hold any number of them."""

CORES, MEMORY = "cores", "memory"


@dataclass
class Used:
    """How much of something was in use, as shares from 0 to 1. began, ended: the seconds of the run that this is known of."""

    curve: Curve = field(default_factory=Curve)
    began: float = float("inf")
    ended: float = 0.0

    def add(self, seconds: float, share: float) -> None:
        self.began, self.ended = min(self.began, seconds), seconds
        self.curve.add(Point(Place(0, 0, seconds), min(max(share, 0.0), 1.0)))

    def most(self) -> float:
        """The largest share."""
        return max(point.value for point in self.curve.points())


class MachineCurves:
    """The machine of the run in `run`. Call `refresh`, and read the fields.

    used: {CORES, MEMORY, "GPU 0 memory" or "GPU 0": how much of it was in use}. newest: the last lines. gpus: {number:
    what was said last of it}, also of a GPU that later lines say nothing of. complete: whether all lines are read.
    """

    def __init__(self, run: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = run / FILE, clock
        self._begin()

    def _begin(self) -> None:
        self._lines = AppendedLines(self._path)
        self.used: dict[str, Used] = {}
        self.newest: deque[MachineUse] = deque(maxlen=NEWEST)
        self.gpus: dict[int, GpuUse] = {}
        self.complete = False

    def refresh(self, patience_s: float = PATIENCE_S) -> None:
        """Read what is new, for about so long. Raises OSError where the file is there and cannot be read."""
        until = self._clock() + patience_s
        while True:
            new = self._lines.read()
            if new.anew:  # another run is made in this folder
                self._begin()
                continue
            for line in new.lines:
                with suppress(RecipeError):  # it was cut off, or is damaged
                    self._add(checked(MachineUse, parse_json(line, "", ""), "", ""))
            if not new.left:
                self.complete = True
            if not new.left or self._clock() >= until:
                return

    def read_whole(self) -> None:
        """Read until all is read. Raises OSError as `refresh` does."""
        self.refresh()
        while not self.complete:
            self.refresh()

    def _add(self, use: MachineUse) -> None:
        if self.newest and use.seconds < self.newest[-1].seconds:
            self._go_back(use.seconds)
        self.newest.append(use)
        self.gpus |= dict(enumerate(use.gpus[:MOST_GPUS]))
        for name, share in _shares(use):
            self.used.setdefault(name, Used()).add(use.seconds, share)

    def _go_back(self, seconds: float) -> None:
        self.newest = deque((use for use in self.newest if use.seconds <= seconds), maxlen=NEWEST)
        for used in self.used.values():
            used.curve.cut(seconds)
            used.began, used.ended = min(used.began, seconds), min(used.ended, seconds)


def memory_of_gpu(number: int) -> str:
    """The name of the curve."""
    return f"GPU {number} memory"


def _shares(use: MachineUse) -> Iterator[tuple[str, float]]:
    if use.cores_used <= use.cores:  # earlier releases also counted cores that the run may not use
        yield CORES, use.cores_used / max(use.cores, 1)
    yield MEMORY, 1 - use.memory_left / max(use.memory, 1.0)
    for number, gpu in enumerate(use.gpus[:MOST_GPUS]):
        yield memory_of_gpu(number), gpu.memory_used / max(gpu.memory, 1.0)
        if gpu.busy is not None:
            yield f"GPU {number}", gpu.busy
