"""An environment that keeps the time of its own steps, so that a benchmark can say what the ideal would have been."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium

from rlvla3.simulators.registry import load


class TimedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The environment `module:Class`, which on closing writes {steps, seconds} into `folder`. Only `step` is timed; `reset` is not."""

    def __init__(self, environment: str, folder: str) -> None:
        super().__init__(load(environment)())
        self._folder, self._steps, self._seconds = Path(folder), 0, 0.0

    def step(self, action: Any) -> Any:
        start = time.perf_counter()
        result = self.env.step(action)
        self._seconds += time.perf_counter() - start
        self._steps += 1
        return result

    def close(self) -> None:
        super().close()
        if self._steps:
            (self._folder / f"{uuid.uuid4().hex}.json").write_text(json.dumps({"steps": self._steps, "seconds": self._seconds}))


def mean_step_seconds(folder: Path) -> float:
    """Over all environments that wrote into `folder`."""
    written: Iterable[dict[str, float]] = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sum(times["seconds"] for times in written) / sum(times["steps"] for times in written)
