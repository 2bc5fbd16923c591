"""Memory and utilisation of the GPU while something runs, as nvidia-smi sees them: of all processes together."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

EVERY_MS = 500
MIB_PER_GIB = 1024


@contextmanager
def watched(device: str) -> Iterator[Callable[[], dict[str, float]]]:
    """Watch the device inside. Call the function at the end for what was seen. It is empty on a CPU, and where nvidia-smi is missing."""
    if device == "cpu":
        yield dict
        return
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder) / "seen.csv"
        words = ["nvidia-smi", "-i", "0", "--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits", "-lms", str(EVERY_MS)]
        with seen.open("w") as file:
            try:
                watching = subprocess.Popen(words, stdout=file, stderr=subprocess.DEVNULL)
            except OSError:
                yield dict
                return
            try:
                yield lambda: summary(seen.read_text().splitlines())
            finally:
                watching.kill()
                watching.wait()


def summary(lines: Iterable[str]) -> dict[str, float]:
    """From lines "MiB used, percent utilised": the most memory in GiB, and the mean utilisation as a share. Empty where no line can be read."""
    pairs = [line.split(",") for line in lines]
    numbers = [(float(used), float(busy)) for used, busy in (pair for pair in pairs if len(pair) == 2) if used.strip().isdigit() and busy.strip().isdigit()]
    if not numbers:
        return {}
    used, busy = zip(*numbers, strict=True)
    return {"device_memory_gib": max(used) / MIB_PER_GIB, "device_busy": fmean(busy) / 100}
