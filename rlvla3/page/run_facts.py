"""What is known of a run, for what is said of it: its lines, its settings, its machine and the end of its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import Recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.run_directory import RunDirectory, RunDirectoryError
from rlvla3.page.appended_lines import tail
from rlvla3.page.at_work import Signs
from rlvla3.page.machine_curves import MachineCurves
from rlvla3.page.run_metrics import RunMetrics
from rlvla3.page.run_reader import RunReader, State
from rlvla3.page.run_settings import RunSettings
from rlvla3.scheduling.recorded_run import DECISION, EMITTED

LAST_ENTRIES = 1000
"""So many of the last entries of a record."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run.

    settings, metrics, ended, state, signs, damaged, complete, read_share: as a RunReader has them. recipe: the settings as a Recipe; None where they cannot
    be read. machine: what its machine.jsonl says. decisions: of each of the last episodes that were learned from. batch: the mean size of the last
    inferences; None where this is not known.
    """

    path: Path
    settings: RunSettings
    recipe: Recipe | None
    metrics: RunMetrics
    ended: str
    state: State
    signs: Signs
    damaged: int
    complete: bool
    read_share: float
    machine: MachineCurves
    decisions: Sequence[int]
    batch: float | None

    @property
    def updates(self) -> Sequence[Mapping[str, Any]]:
        """The lines of the last updates."""
        return tuple(self.metrics.newest)


def run_facts(path: Path, tell: Callable[[float], None] = lambda share: None) -> RunFacts:
    """What is known of the run in `path`, from all of its lines. tell: called with the share of them that is read, while they are many.

    Raises RunDirectoryError where there is no run, and OSError where its files may not be read.
    """
    if not (path / "config.yaml").is_file() and (runs := sorted(config.parent for config in path.glob("*/config.yaml"))):
        raise RunDirectoryError(f"{path} is a folder of runs, and not a run: name one of them, such as {runs[-1]}")
    reader = RunReader(RunDirectory.open(path).path)
    reader.read_whole(tell)
    machine = MachineCurves(path)
    machine.read_whole()
    return facts_of(reader, machine)


def facts_of(reader: RunReader, machine: MachineCurves) -> RunFacts:
    """What is known of the run that was read, and whose `machine` was. Raises OSError where its files may not be read."""
    run, recipe = reader.run, None
    with suppress(RecipeError):  # reader.settings says why
        recipe = run.recipe()
    return RunFacts(
        run.path,
        reader.settings,
        recipe,
        reader.metrics,
        reader.ended,
        reader.state(),
        reader.signs(),
        reader.damaged,
        reader.complete,
        reader.read_share,
        machine=machine,
        decisions=_decisions(run.record / "trainer.bin"),
        batch=_batch(run.record / "generator-0.bin"),
    )


def _decisions(path: Path) -> list[int]:
    """The decisions of each of the last episodes in a record. Those that were set aside have none."""
    return [int(count) for count in _entries(path, EMITTED)["decisions"] if count > 0]


def _batch(path: Path) -> float | None:
    """The mean decisions of the last inferences in a record. Neighbours with the same time were one inference."""
    times = _entries(path, DECISION)["at"]
    return len(times) / int(np.count_nonzero(np.diff(times)) + 1) if len(times) else None


def _entries(path: Path, kind: np.dtype[Any]) -> NDArray[Any]:
    """The last whole entries of a file of a record."""
    content = tail(path, LAST_ENTRIES * kind.itemsize, kind.itemsize)
    return np.frombuffer(content, kind, count=len(content) // kind.itemsize)
