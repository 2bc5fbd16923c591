"""parity.png: one panel for each max_staleness, with sync and with full_async for each correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlvla3.benchmarks.parity.curves import WINDOW, Curve, Measure, over_seeds
from rlvla3.benchmarks.parity.trials import ParityError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import LineStyleType

GREY = "#6e6e6e"
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""The palette of Okabe and Ito, whose colours colour-blind readers can tell apart. The lines differ in their dashes too."""

DASHES: tuple[LineStyleType, ...] = ("--", "-", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
PANEL = (5.0, 3.1)
"""Width and height in inches. With 160 dots per inch and two panels in a row, the text is readable at the width of a page."""


def need_matplotlib() -> None:
    """Raise ParityError if matplotlib is missing. It is called before anything is trained."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ParityError("the picture needs matplotlib, which is not installed: pip install 'rlvla3[plots]', or pip install 'matplotlib>=3.9'") from error


def draw_curves(picture: Path, title: str, measure: Measure, sync: Sequence[Curve], full_async: Mapping[int, Mapping[str, Sequence[Curve]]]) -> None:
    """Draw the curves into the file `picture`. sync: one curve per seed. full_async: one curve per seed for each max_staleness and each correction."""
    from matplotlib.figure import Figure

    columns = min(len(full_async), 2)
    rows = -(-len(full_async) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.9), dpi=160, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (most, corrections) in zip(grid.flat, full_async.items(), strict=False):
        _line(axes, sync, "sync", GREY, "-")
        for number, (correction, curves) in enumerate(corrections.items()):
            _line(axes, curves, f"full_async, correction {correction}", COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)])
        axes.set_title(f"max_staleness {most}", fontsize=11)
        axes.set_xlabel("environment steps (thousands)")
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(grid.flat)[len(full_async) :]:
        axes.remove()
    first = grid[0, 0]
    first.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:g}")
    if measure == "success":
        first.yaxis.set_major_formatter(lambda rate, _: f"{100 * rate:.0f}")
    for axes in grid[:, 0]:
        axes.set_ylabel("success (%)" if measure == "success" else "mean return")
    seeds = len(sync)
    figure.suptitle(f"{title}\ntraining episodes of {WINDOW} updates, mean and range of {seeds} seed{'s' * (seeds > 1)}", fontsize=11)
    figure.legend(
        *first.get_legend_handles_labels(), loc="outside lower center", ncols=len(first.get_lines()) if columns > 1 else 1, frameon=False, fontsize=10
    )
    figure.savefig(picture)


def _line(axes: Axes, curves: Sequence[Curve], label: str, colour: str, dashes: LineStyleType) -> None:
    steps, values = over_seeds(curves)
    axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    axes.plot(steps, values.mean(axis=0), color=colour, linestyle=dashes, linewidth=1.8, label=label)
