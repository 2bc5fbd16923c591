"""Reported against rehearsed: one table of the papers, and how far off it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Compared:
    """One row. reported, rehearsed: seconds of a step; reported is None where the papers print nothing. calibration: the profile was made from it.
    contradicted: its figures cannot all be right, for `reason`."""

    row: str
    model: str
    placement: str
    devices: int
    strategy: str
    reported: float | None
    rehearsed: float
    calibration: bool = False
    contradicted: bool = False
    reason: str = ""

    @property
    def error(self) -> float | None:
        """Relative to what is reported, positive where the rehearsal is slower."""
        return None if self.reported is None else self.rehearsed / self.reported - 1

    @property
    def counts(self) -> bool:
        """Whether its error is one of those that the profile is judged by."""
        return self.reported is not None and not self.calibration and not self.contradicted


@dataclass(frozen=True, slots=True)
class Errors:
    """Absolute relative errors of so many rows."""

    count: int
    median: float
    p90: float
    max: float

    @classmethod
    def of(cls, errors: Iterable[float]) -> Errors | None:
        """None of none. p90: nine tenths of the rows are at most so far off."""
        ordered = sorted(map(abs, errors))
        return cls(len(ordered), median(ordered), ordered[math.ceil(0.9 * len(ordered)) - 1], ordered[-1]) if ordered else None


@dataclass(frozen=True, slots=True)
class PaperResult:
    """A table, rehearsed. controls: of schedules that are not the papers', by name, the errors over the rows in which training overlaps rollouts, by model and
    for all models. notes: what the table alone does not say."""

    name: str
    rows: Sequence[Compared]
    controls: Mapping[str, Mapping[str, Errors]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(row.model for row in self.rows))

    def errors(self, model: str | None = None, flagged: bool = False) -> Errors | None:
        """Of the rows that count, of one model or of all; flagged: and of those whose figures contradict."""
        chosen = (row for row in self.rows if model in (None, row.model) and (row.counts or (flagged and row.contradicted and not row.calibration)))
        return Errors.of(row.error for row in chosen if row.error is not None)

    def content(self) -> dict[str, Any]:
        """As plain data. Times in seconds, errors relative: signed in the rows, absolute elsewhere."""
        overall = self.errors()
        return {
            "paper": self.name,
            "rows": [asdict(row) | {"error": row.error} for row in self.rows],
            "median_error": overall.median if overall else None,
            "max_error": overall.max if overall else None,
            "models": {model: asdict(errors) for model in self.models if (errors := self.errors(model))},
            "controls": {name: {model: asdict(errors) for model, errors in by_model.items()} for name, by_model in self.controls.items()},
            "notes": list(self.notes),
        }
