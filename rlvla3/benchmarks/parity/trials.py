"""The runs of a parity measurement. They differ only in seed, schedule and correction."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvla3.config import Recipe, load_recipe
from rlvla3.errors import ExplainedError
from rlvla3.observability.file_names import file_name
from rlvla3.preflight import preflight


class ParityError(ExplainedError, RuntimeError):
    """A parity measurement cannot be made. The message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """max_staleness: that of full_async; 0 is sync. correction: the name of the correction for staleness; None for the recipe's own."""

    max_staleness: int
    correction: str | None = None

    @property
    def settings(self) -> tuple[str, ...]:
        mode = "full_async" if self.max_staleness else "sync"
        correction = (f"algorithm.correction={self.correction}",) if self.correction else ()
        return (f"engine.mode={mode}", f"engine.max_staleness={self.max_staleness}", *correction)


SYNC = Schedule(0)
"""The schedule with which all others are compared. Its data are never stale, so corrections change nothing."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a measurement."""

    seed: int
    schedule: Schedule
    name: str


@dataclass(frozen=True, slots=True)
class ParityMeasurement:
    """A parity measurement of the recipe in `start`. out: the folder for its runs and results. schedules: of full_async, each with its correction's name.
    trust: whether code of others that the recipe names may be loaded (observability/trust.py); every run is told so."""

    start: Path
    overrides: tuple[str, ...]
    out: Path
    seeds: tuple[int, ...]
    schedules: dict[Schedule, str]
    trust: bool = False

    @classmethod
    def make(
        cls,
        start: Path,
        overrides: Sequence[str],
        out: Path,
        seeds: Sequence[int],
        staleness: Sequence[int],
        corrections: Sequence[str] = (),
        trust: bool = False,
    ) -> ParityMeasurement:
        """Check all settings and make the measurement. corrections: their names; if empty, `none` and the recipe's own.

        Raises RecipeError or ParityError if a run cannot be made.
        """
        if min(seeds) < 0 or min(staleness) < 1:
            raise ParityError(
                f"--seeds {_words(seeds)} --staleness {_words(staleness)}: seeds begin at 0, and staleness begins at 1 (0 is sync, always trained)"
            )
        own = load_recipe(start, overrides).algorithm.correction.name
        names = dict.fromkeys(corrections or ("none", own))
        schedules = {Schedule(most, None if name == own else name): name for most in dict.fromkeys(staleness) for name in names}
        measurement = cls(start, tuple(overrides), out, tuple(dict.fromkeys(seeds)), schedules, trust)
        for schedule in (SYNC, *schedules):
            preflight(load_recipe(start, measurement._settings(measurement.seeds[0], schedule)))
        return measurement

    @property
    def recipe(self) -> Recipe:
        """The recipe without the settings in which runs differ. If the recipe begins by cloning, the clone is made with it."""
        return load_recipe(self.start, self.overrides)

    @property
    def clone(self) -> Path:
        """The run directory of the cloned policy from which all runs start, if the recipe begins by cloning."""
        return self.out / "clone"

    def trials(self) -> Iterator[Trial]:
        """All runs, one seed after the other. So an interrupted measurement has finished whole seeds."""
        for seed in self.seeds:
            for schedule in (SYNC, *self.schedules):
                yield self.trial(seed, schedule)

    def trial(self, seed: int, schedule: Schedule) -> Trial:
        kind = f"staleness{schedule.max_staleness}-{file_name(self.schedules[schedule], unique=False)}" if schedule.max_staleness else "sync"
        return Trial(seed, schedule, f"{kind}-seed{seed}")

    def folder(self, trial: Trial) -> Path:
        """The run directory of `trial`."""
        return self.out / "runs" / trial.name

    def settings(self, trial: Trial) -> list[str]:
        """The settings of `trial` that override the recipe's file, as key=value."""
        settings = self._settings(trial.seed, trial.schedule)
        if self.recipe.begins_by_cloning:
            # As JSON, which is valid YAML: a path may contain characters that have a meaning in YAML.
            settings.append(f"policy.checkpoint={json.dumps(str(self.clone / 'checkpoints' / '000000' / 'policy'))}")
        return settings

    def _settings(self, seed: int, schedule: Schedule) -> list[str]:
        return [*self.overrides, f"seed={seed}", *schedule.settings, "evaluation.before=false", "evaluation.after=false"]


def _words(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))
