"""A subject of `bench fuzz` whose cases end in every way that there is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random

from rlvla3.benchmarks.fuzz.subject import Subject
from rlvla3.errors import RecipeError

ENDS = {
    "is good": "accepted",
    "is refused": "refused",
    "raises": "escaped",
    "raises no Exception": "escaped",
    "takes all memory": "escaped",
    "sleeps": "slow",
    "exits": "crashed",
    "aborts": "crashed",
}
"""What a case does, and what is to be said of it."""


class EveryEnd(Subject):
    """Each case holds a word of ENDS, and reading it does what the word says."""

    def make(self, random: Random, folder: Path) -> str:
        does = random.choice(list(ENDS))
        (folder / "does").write_text(does)
        return does

    def read(self, folder: Path) -> None:
        match (folder / "does").read_text():
            case "is refused":
                raise RecipeError("it is refused")
            case "raises":
                raise KeyError("forgotten")
            case "raises no Exception":
                raise SystemExit(3)
            case "takes all memory":
                bytearray(1 << 40)
            case "sleeps":
                time.sleep(1000)
            case "exits":
                os._exit(7)
            case "aborts":
                os.abort()
