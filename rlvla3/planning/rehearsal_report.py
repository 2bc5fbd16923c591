"""A rehearsal as a table on a terminal, as plain lines elsewhere, and as JSON. Nothing in them depends on this machine's clock."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rlvla3.config import Recipe
from rlvla3.observability.formatting import duration, number_of, percent, quantity
from rlvla3.planning.rehearsal import Rehearsal
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.scheduling.placement import Cluster

if TYPE_CHECKING:
    from rich.console import RenderableType

MENTIONED = 0.005
"""A share below this rounds to less than 1 % and is not printed."""

BAR_WIDTH = 10


def on_a_terminal() -> bool:
    """Whether standard output is a terminal that shows tables and colours."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def print_notice(text: str) -> None:
    """Print what is being done to standard error. It is not part of the result."""
    print(text, file=sys.stderr, flush=True)


def title_of(recipe: Recipe, profile: Profile, cluster: Cluster) -> str:
    """What is rehearsed, such as "libero-pi0 on 4x8 devices, hybrid 1:1, full_async, staleness at most 1"."""
    placement = f"{recipe.placement.kind} {recipe.placement.ratio}".strip()
    return f"{profile.name} on {cluster.hosts}x{cluster.devices} devices, {placement}, {recipe.engine.mode}, staleness at most {recipe.engine.max_staleness}"


def content(rehearsal: Rehearsal, recipe: Recipe, profile: Profile, cluster: Cluster, seed: int) -> dict[str, Any]:
    """All figures as plain data: throughput in environment steps per second, times in virtual seconds, all others shares in [0, 1]."""
    about = {"profile": profile.name, "source": profile.source, "cluster": f"{cluster.hosts}x{cluster.devices}", "seed": seed}
    return (
        asdict(rehearsal) | {"staleness": {str(lag): share for lag, share in rehearsal.staleness.items()}} | about | {"recipe": recipe.model_dump(mode="json")}
    )


def print_rehearsal(rehearsal: Rehearsal, title: str) -> None:
    """Print a rehearsal, on a terminal as a table."""
    if on_a_terminal():
        from rich.console import Console

        Console().print(table(rehearsal, title))
    else:
        print("\n".join(lines(rehearsal, title)))


def lines(rehearsal: Rehearsal, title: str) -> list[str]:
    """The rehearsal in plain lines."""
    rows = _rows(rehearsal)
    width = max(map(len, rows))
    return [title, *(f"{name:{width}}  {text}" for name, text in rows.items())]


def table(rehearsal: Rehearsal, title: str) -> RenderableType:
    """The rehearsal as a table, with a bar for each kind of worker."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, row in _rows(rehearsal).items():
        if name in rehearsal.utilisation:
            filled = round(sum(rehearsal.utilisation[name].values()) * BAR_WIDTH)
            grid.add_row(name, Text.assemble(("█" * filled, "green"), ("░" * (BAR_WIDTH - filled), "dim"), " ", row))
        else:
            grid.add_row(name, row)
    return Panel(grid, title=f"rehearsal: {title}")


def _rows(rehearsal: Rehearsal) -> dict[str, str]:
    lag = sum(lag * share for lag, share in rehearsal.staleness.items())
    return {
        "throughput": f"{quantity(rehearsal.throughput)} steps/s",
        "step time": f"{rehearsal.step_time:.4g} s per update, over {number_of(rehearsal.updates, 'update')} in {duration(rehearsal.seconds)} of virtual time",
        **{kind: _worker(busy, rehearsal.idle[kind]) for kind, busy in rehearsal.utilisation.items()},
        "in use": _shares(rehearsal.lanes),
        "staleness": f"{', '.join(f'{lag}: {percent(share)}' for lag, share in rehearsal.staleness.items())}; mean {lag:.2f}",
    }


def _worker(busy: Mapping[str, float], idle: Mapping[str, float]) -> str:
    """How a worker spends its time: "busy 44 % (simulate 43 %, reset 1 %), waits for decision 50 %, ticket 6 %"."""
    text = f"busy {percent(sum(busy.values()))} ({_shares(busy)})"
    return f"{text}, waits for {_shares(idle)}" if any(share >= MENTIONED for share in idle.values()) else text


def _shares(shares: Mapping[str, float]) -> str:
    ordered = sorted(shares.items(), key=lambda share: (-share[1], share[0]))
    return ", ".join(f"{name.replace('_', ' ')} {percent(share)}" for name, share in ordered if share >= MENTIONED) or "nothing"
