"""An environment that measures the duration of its own steps, so that a benchmark knows the ideal rate."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import gymnasium

from rlvla3.simulators.builtin import load_simulator_or_environment

FIRST_STEPS = 200


class TimedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The environment `module:Class`, with its steps measured. Resets are not measured.

    When it is closed, it writes a file into `folder`: the number of its steps, their seconds, and the times at which the first FIRST_STEPS steps ended.
    """

    def __init__(self, environment: str, folder: str) -> None:
        super().__init__(load_simulator_or_environment(environment)())
        self._folder, self._steps, self._seconds = Path(folder), 0, 0.0
        self._first: list[float] = []

    def step(self, action: Any) -> Any:
        start = time.perf_counter()
        result = self.env.step(action)
        self._seconds += time.perf_counter() - start
        self._steps += 1
        if len(self._first) < FIRST_STEPS:
            self._first.append(time.time())
        return result

    def close(self) -> None:
        super().close()
        if self._steps:
            (self._folder / f"{uuid.uuid4().hex}.json").write_text(json.dumps({"steps": self._steps, "seconds": self._seconds, "first": self._first}))


def mean_step_seconds(folder: Path) -> float:
    """The mean seconds of a step, over all environments that wrote into `folder`."""
    written = _written(folder)
    return float(sum(times["seconds"] for times in written) / sum(times["steps"] for times in written))


def end_of_first_steps(folder: Path) -> float:
    """The time (time.time()) at which all environments together had made FIRST_STEPS steps."""
    return float(sorted(moment for times in _written(folder) for moment in times["first"])[FIRST_STEPS - 1])


def _written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.glob("*.json")]
