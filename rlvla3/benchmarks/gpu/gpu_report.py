"""What `rlvla3 bench gpu` does: it runs the sections, prints the table of each as soon as it has ended, and writes the JSON file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rlvla3.benchmarks.gpu.running import Measurement
from rlvla3.benchmarks.gpu.sections import SECTIONS, Section
from rlvla3.benchmarks.gpu.sizes import Sizes
from rlvla3.benchmarks.gpu.tables import TABLES
from rlvla3.errors import RecipeError
from rlvla3.observability.formatting import duration

WIDTH = 140
"""Columns of a table where the output is no terminal."""


def main(figures: Path, minutes: float, only: Sequence[str]) -> None:
    """Measure for about `minutes`. only: the sections to run (all where it is empty). Raises RecipeError for a section that does not exist."""
    known = [section.name for section in SECTIONS]
    if unknown := [name for name in only if name not in known]:
        raise RecipeError(f"--only {unknown[0]} is no section: use {', '.join(known)}")
    measurement = Measurement(minutes, figures, Printer(), only)
    measurement.run()
    print(f"{figures}: all figures. docs/gpu.md explains them")


class Printer:
    """Prints what happens. The first line says what is measured: a GPU, or a CPU at tiny size."""

    def __init__(self) -> None:
        self._console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
        self._begun = False

    def begins(self, section: Section, seconds: float) -> None:
        if self._begun:
            self._console.print(f"{section.title}: up to {duration(seconds)}", style="dim")

    def ended(self, section: Section, result: Mapping[str, Any], sizes: Sizes) -> None:
        if not self._begun:
            self._begun = True
            gpu = result["figures"]["gpu"]["name"]
            self._console.print(
                f"rlvla3 bench gpu on {gpu}"
                if gpu
                else "rlvla3 bench gpu, tiny, no GPU: it shows that the measurement works. No figure says anything about a GPU"
            )
        if result["figures"]:
            self._console.print(_table(section, result["figures"], sizes))
        if result["state"] != "done":
            self._console.print(f"{section.title}: {result['state']}", style="bold")
        for what, why in result["not_run"].items():
            self._console.print(f"not measured: {what} ({why})", style="dim")


def _table(section: Section, figures: Mapping[str, Any], sizes: Sizes) -> Table:
    drawn = TABLES[section.name]
    title = section.title if sizes.on_gpu else f"{section.title} (CPU, tiny)"
    table = Table(*drawn.columns, title=title, title_justify="left", show_header=any(drawn.columns))
    for row in drawn.rows(figures):
        table.add_row(*row)
    return table
