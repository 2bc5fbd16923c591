"""One table of the papers, reported against rehearsed, and the errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One row. reported, rehearsed: seconds of a step; reported is None if the papers do not print it. calibration: whether the profile was made from this row.

    contradicted: whether its figures cannot all be right; `reason` says why.
    """

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
        """The relative error; positive if the rehearsal is slower than reported."""
        return None if self.reported is None else self.rehearsed / self.reported - 1

    @property
    def counts(self) -> bool:
        """Whether the profile is judged by this row."""
        return self.reported is not None and not self.calibration and not self.contradicted


@dataclass(frozen=True, slots=True)
class Errors:
    """Absolute relative errors of `count` rows. p90: nine tenths of the rows have at most this error."""

    count: int
    median: float
    p90: float
    max: float

    @classmethod
    def of(cls, errors: Iterable[float]) -> Errors | None:
        """The summary of `errors`; None if there are none."""
        ordered = sorted(map(abs, errors))
        return cls(len(ordered), median(ordered), ordered[math.ceil(0.9 * len(ordered)) - 1], ordered[-1]) if ordered else None


@dataclass(frozen=True, slots=True)
class PaperResult:
    """A rehearsed table.

    controls: for each control schedule, the errors by model and for all models, over the rows in which training overlaps rollouts. notes: texts to print below.
    """

    name: str
    rows: Sequence[ComparedRow]
    controls: Mapping[str, Mapping[str, Errors]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(row.model for row in self.rows))

    def errors(self, model: str | None = None, flagged: bool = False) -> Errors | None:
        """The errors of the rows that count. model: of one model (None: of all). flagged: include rows whose figures are contradicted."""
        chosen = (row for row in self.rows if model in (None, row.model) and (row.counts or (flagged and row.contradicted and not row.calibration)))
        return Errors.of(row.error for row in chosen if row.error is not None)

    def content(self) -> dict[str, Any]:
        """The result as plain data. Times are in seconds. Errors are relative; those of rows have a sign, the others are absolute."""
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
