"""Comparisons as tables. The output is the same every time, whatever the width of the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlvla3.planning.papers.beyond import Beyond
from rlvla3.planning.papers.results import ComparedRow, Errors, PaperResult

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 170
WORDS = ("", "model", "placement", "schedule", "reason", "run")
"""Columns of words, which are aligned to the left. The others are numbers."""


def print_result(result: PaperResult | Beyond) -> None:
    """Print the tables of a result, and its notes."""
    from rich.console import Console

    console = Console(width=WIDTH, highlight=False, soft_wrap=False)
    if isinstance(result, Beyond):
        console.print(_beyond(result))
    else:
        console.print(_rows(result))
        if any(row.error is not None for row in result.rows):
            console.print(_errors(result))
    for note in result.notes:
        console.print(note)


def _rows(result: PaperResult) -> Table:
    table = _table(f"{result.name}: seconds of a step", "model", "placement", "GPUs", "schedule", "reported", "rehearsed", "error", "", "reason")
    for row in result.rows:
        error = "" if row.error is None else f"{row.error:+.1%}"
        reported = "" if row.reported is None else f"{row.reported:.1f}"
        table.add_row(row.model, row.placement, str(row.devices), row.strategy, reported, f"{row.rehearsed:.1f}", error, _flag(row), row.reason)
    return table


def _flag(row: ComparedRow) -> str:
    return ", ".join(flag for flag, holds in (("calibration", row.calibration), ("contradicted", row.contradicted)) if holds)


def _errors(result: PaperResult) -> Table:
    """The errors of the rows that count, and of the controls."""
    table = _table("absolute errors, without calibration and contradicted rows", "", "rows", "median", "p90", "max", "with contradicted rows: median", "max")
    for model in result.models:
        errors, flagged = result.errors(model), result.errors(model, flagged=True)
        if errors and flagged:
            table.add_row(model, *_error_cells(errors), f"{flagged.median:.1%}", f"{flagged.max:.1%}")
    for control, by_model in result.controls.items():
        for model, errors in by_model.items():
            table.add_row(f"control, {control}: {model}", *_error_cells(errors), "", "")
    return table


def _error_cells(errors: Errors) -> tuple[str, str, str, str]:
    return str(errors.count), f"{errors.median:.1%}", f"{errors.p90:.1%}", f"{errors.max:.1%}"


def _beyond(result: Beyond) -> Table:
    table = _table(
        "LIBERO pi0 beyond the papers: seconds of a step",
        "GPUs", "run", "step", "steps/s", "bottleneck alone", "share reached", "times synchronous", "of linear",
    )  # fmt: skip
    for run in result.runs:
        bound = (f"{run.bound:.1f}", f"{run.share:.1%}") if run.bound else ("", "")
        table.add_row(str(run.devices), run.name, f"{run.step_time:.1f}", f"{run.throughput:.0f}", *bound, f"{run.gain:.2f}", f"{run.efficiency:.1%}")
    return table


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in WORDS else "right", overflow="fold")
    return table
