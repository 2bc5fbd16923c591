"""results.png: the success rate of each task, with its 95 % interval and the number of its episodes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BLUE, GREY = "#0072b2", "#6e6e6e"
ROW_INCHES = 0.28
LONGEST_NAME = 60
MOST_ROWS = 150
"""A picture of more tasks cannot be read. LIBERO-90 and Meta-World's 50 fit."""


def has_matplotlib() -> bool:
    return find_spec("matplotlib") is not None


def draw_results(picture: Path, results: Mapping[str, Any]) -> None:
    """Draw the rates of `results`, as results.json has them, into the file `picture`, a PNG."""
    from matplotlib.figure import Figure

    rows = [("all", results["success"]), *list(results["per_task"].items())[:MOST_ROWS]]
    figure = Figure(figsize=(9.0, 1.3 + ROW_INCHES * len(rows)), dpi=130, layout="constrained")
    axes = figure.subplots()
    for place, (_, rate) in enumerate(rows):
        share, colour = rate["rate"] or 0.0, GREY if place == 0 else BLUE
        reach = [[100 * (share - rate["low"])], [100 * (rate["high"] - share)]]
        axes.barh(place, 100 * share, color=colour, alpha=0.35, height=0.7)
        axes.errorbar(100 * share, place, xerr=reach, color=colour, capsize=3, linewidth=1.5)
        axes.text(102, place, f"{rate['successes']} of {rate['episodes']}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [_shortened(name) for name, _ in rows], fontsize=8, parse_math=False)  # a name may hold a dollar sign
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("success (%), with the 95 % Wilson interval")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_title(title(results), fontsize=10, parse_math=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # it is drawn as a box
        figure.savefig(picture, format="png")


def title(results: Mapping[str, Any]) -> str:
    """The title of the picture. It says how far the result is one of its protocol, and of how many episodes it is where it ended early."""
    protocol, policy = results["protocol"], results["policy"]
    part = "" if results["complete"] else f", {results['success']['episodes']} of {results['planned']} episodes"
    if protocol is None:
        return f"{policy['name']} after {policy['updates']} updates{part}"
    left = len(protocol["deviations"])
    leaves = f", with {left} deviation{'s' * (left > 1)}" if left else ""
    return f"{policy['name']} after {policy['updates']} updates: protocol {protocol['name']} for {protocol['simulator']}{leaves}{part}"


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
