"""The figures of one section. They are sent to the command as they come. So a section that is cut short leaves what it has measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlvla3.benchmarks.gpu.sizes import Sizes

NO_TIME = "time"


class Sheet:
    """What a section is given, and where it writes.

    sizes: how much to measure. earlier: the figures of the sections before, by their names. path: of the JSON file. until: when the section's
    time ends, on the monotonic clock. send: takes a copy of the sheet after each change.
    """

    def __init__(self, sizes: Sizes, earlier: Mapping[str, Any], path: Path, until: float, send: Callable[[dict[str, Any]], None]) -> None:
        self.sizes, self.earlier, self.path, self._until, self._send = sizes, earlier, path, until, send
        self.figures: dict[str, Any] = {}
        self.not_run: dict[str, str] = {}

    def write(self, *names: str | int, **figures: Any) -> None:
        """Add figures under these names, one inside the other."""
        place = self.figures
        for name in names:
            place = place.setdefault(str(name), {})
        place.update(figures)
        self._tell()

    def skip(self, what: str, why: str) -> None:
        """Note that something is not measured, and why."""
        self.not_run[what] = why
        self._tell()

    def time_for(self, what: str, seconds: float) -> bool:
        """Whether so many seconds are left for `what`. Where they are not, it is noted as not run."""
        enough = self.left >= seconds
        if not enough:
            self.skip(what, NO_TIME)
        return enough

    @property
    def left(self) -> float:
        """Seconds until the section's time ends."""
        return self._until - time.monotonic()

    def _tell(self) -> None:
        self._send({"figures": self.figures, "not_run": self.not_run})
