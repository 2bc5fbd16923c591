"""Advice for a page, from a process of its own with the lowest priority: rehearsals take seconds of a core, and the run has its cores first.

Run as a program, this file makes the advice that it is asked for on stdin.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from rlvla3.page.advising import Advice, advise
from rlvla3.page.explaining import can_be_advised, observed_of
from rlvla3.page.run_facts import RunFacts
from rlvla3.process_ends import ending_in_words

EVERY_S = 600.0
"""How often there is new advice for a run that goes on."""

LOWEST_PRIORITY = 19

UNDER_WAY = Advice("Other settings are being rehearsed ...")


class AdviceBeside:
    """The newest advice for a run. Ask with `newest`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun_at: float | None = None
        self._ready: Advice | None = None

    def newest(self, facts: RunFacts) -> Advice | None:
        """The newest advice that is ready, UNDER_WAY before the first. Where it is old, the next one is begun. None for a run that cannot be advised."""
        due = self._begun_at is None or (facts.state == "running" and self._clock() - self._begun_at > EVERY_S)
        if due and can_be_advised(facts):
            self._begun_at = self._clock()
            question = pickle.dumps((facts.recipe, observed_of(facts)))
            self._ready = self._ready or UNDER_WAY
            threading.Thread(target=self._make, args=(question,), name="advice", daemon=True).start()
        return self._ready

    def _make(self, question: bytes) -> None:
        try:
            made = subprocess.run([sys.executable, "-m", __spec__.name], input=question, capture_output=True, check=False, timeout=EVERY_S)
        except subprocess.TimeoutExpired:
            self._ready = Advice(f"No setting can be recommended, because rehearsals took longer than {EVERY_S:g} s: the run leaves no core free.")
            return
        words = (made.stderr.decode(errors="replace").strip().splitlines() or [""])[-1][:200]
        failed = f"No setting can be recommended, because the process that rehearses has failed: {ending_in_words(made.returncode)}. {words}"
        self._ready = pickle.loads(made.stdout) if made.returncode == 0 else Advice(failed.strip())


def main() -> None:
    """Read a question from stdin, and write its advice to stdout."""
    os.nice(LOWEST_PRIORITY)
    recipe, observed = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(pickle.dumps(advise(recipe, observed)))


if __name__ == "__main__":
    main()
