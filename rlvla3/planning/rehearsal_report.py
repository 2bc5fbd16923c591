"""What a rehearsal says: a table on a terminal, plain lines elsewhere, and everything as JSON. Nothing of it depends on this machine's clock."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rlvla3.config import Recipe
from rlvla3.observability.wording import counted, duration, percent, quantity
from rlvla3.planning.rehearsal import Rehearsal
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.scheduling.placement import Cluster

if TYPE_CHECKING:
    from rich.console import RenderableType

MENTIONED = 0.005
"""A share that rounds to less than 1 % is not told."""

BAR_WIDTH = 10


def on_a_terminal() -> bool:
    """Whether tables and colours can be shown."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def notice(text: str) -> None:
    """What is being done, for whoever watches; nothing of it is a result."""
    print(text, file=sys.stderr, flush=True)


def title_of(recipe: Recipe, profile: Profile, cluster: Cluster) -> str:
    """What is rehearsed: "libero-pi0 on 4x8 devices, hybrid 1:1, full_async, staleness at most 1"."""
    placement = f"{recipe.placement.kind} {recipe.placement.ratio}".strip()
    return f"{profile.name} on {cluster.hosts}x{cluster.devices} devices, {placement}, {recipe.engine.mode}, staleness at most {recipe.engine.max_staleness}"


def content(rehearsal: Rehearsal, recipe: Recipe, profile: Profile, cluster: Cluster, seed: int) -> dict[str, Any]:
    """All figures as plain data: throughput in environment steps a second, times in virtual seconds, the rest shares in [0, 1]."""
    about = {"profile": profile.name, "source": profile.source, "cluster": f"{cluster.hosts}x{cluster.devices}", "seed": seed}
    return (
        asdict(rehearsal) | {"staleness": {str(lag): share for lag, share in rehearsal.staleness.items()}} | about | {"recipe": recipe.model_dump(mode="json")}
    )


def tell(rehearsal: Rehearsal, title: str) -> None:
    """Say what a run does: in a table where there is a terminal."""
    if on_a_terminal():
        from rich.console import Console

        Console().print(table(rehearsal, title))
    else:
        print("\n".join(lines(rehearsal, title)))


def lines(rehearsal: Rehearsal, title: str) -> list[str]:
    """It in plain lines."""
    rows = _rows(rehearsal)
    width = max(map(len, rows))
    return [title, *(f"{name:{width}}  {said}" for name, said in rows.items())]


def table(rehearsal: Rehearsal, title: str) -> RenderableType:
    """It for a terminal, workers with bars."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, said in _rows(rehearsal).items():
        if name in rehearsal.utilisation:
            filled = round(sum(rehearsal.utilisation[name].values()) * BAR_WIDTH)
            grid.add_row(name, Text.assemble(("█" * filled, "green"), ("░" * (BAR_WIDTH - filled), "dim"), " ", said))
        else:
            grid.add_row(name, said)
    return Panel(grid, title=f"rehearsal: {title}")


def _rows(rehearsal: Rehearsal) -> dict[str, str]:
    lag = sum(lag * share for lag, share in rehearsal.staleness.items())
    return {
        "throughput": f"{quantity(rehearsal.throughput)} steps/s",
        "step time": f"{rehearsal.step_time:.4g} s an update, over {counted(rehearsal.updates, 'update')} in {duration(rehearsal.seconds)} of virtual time",
        **{kind: _worker(busy, rehearsal.idle[kind]) for kind, busy in rehearsal.utilisation.items()},
        "in use": _shares(rehearsal.lanes),
        "staleness": f"{', '.join(f'{lag}: {percent(share)}' for lag, share in rehearsal.staleness.items())}; {lag:.2f} in the mean",
    }


def _worker(busy: Mapping[str, float], idle: Mapping[str, float]) -> str:
    """Where a worker's time goes: "busy 44 % (simulate 43 %, reset 1 %), waits for decision 50 %, ticket 6 %"."""
    said = f"busy {percent(sum(busy.values()))} ({_shares(busy)})"
    return f"{said}, waits for {_shares(idle)}" if any(share >= MENTIONED for share in idle.values()) else said


def _shares(shares: Mapping[str, float]) -> str:
    ordered = sorted(shares.items(), key=lambda share: (-share[1], share[0]))
    return ", ".join(f"{name.replace('_', ' ')} {percent(share)}" for name, share in ordered if share >= MENTIONED) or "nothing"
