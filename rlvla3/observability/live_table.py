"""The live table of a run: what it shows, and how a terminal gets it. notebook.py draws the same table in a notebook."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlvla3.observability.event_json import rate_json
from rlvla3.observability.events import Event, SuccessRate, WorkerTime
from rlvla3.observability.formatting import clock_time, duration, evaluation_result, number_of, percent, quantity, success_of_episodes
from rlvla3.observability.progress import UNITS, Progress
from rlvla3.observability.summary import RECENT_UPDATES
from rlvla3.observability.worker_times import largest, rows_to_show

BARS = "▁▂▃▄▅▆▇█"
BAR_WIDTH = 10
LEAST_INTERVAL_S = 0.25
"""The table is not drawn more often."""


class ProgressTable:
    """The progress of a run, as a table.

    title: the name of the run, for example "quickstart, full_async". place: its folder.
    """

    def __init__(self, title: str, place: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress, self._title, self._place = Progress(clock), title, place

    def on(self, event: Event) -> None:
        self._progress.on(event)

    def table(self) -> Panel:
        """The present content of the table."""
        parts: list[RenderableType] = [self._head()]
        if self._progress.latest is not None:
            parts += ["", _workers(self._progress.latest.workers)]
        parts += [Text(f"· {notice}", style="yellow") for notice in self._progress.notices]
        title = Text.assemble("rlvla3 ", (self._title, "bold"), f" {clock_time(self._progress.elapsed())}")
        return Panel(Group(*parts), title=title, subtitle=Text(self._place, "dim"))

    def _head(self) -> Table:
        progress, grid = self._progress, Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column()
        grid.add_row(progress.phase, _phase(progress))
        for when, found in progress.evaluations.items():
            grid.add_row(when, _evaluation(found))
        if progress.rollouts:
            latest, recent = _rollouts(progress)
            grid.add_row("rollouts", latest)
            grid.add_row(f"last {RECENT_UPDATES} updates", recent)
        if progress.latest is not None:
            update = progress.latest
            grid.add_row("throughput", f"{quantity(update.throughput)} steps/s, {quantity(update.environment_steps)} environment steps")
            episodes = max(sum(update.staleness.values()), 1)
            lags = ", ".join(f"{lag}: {percent(count / episodes)}" for lag, count in sorted(update.staleness.items()))
            rerun = f", [yellow]{update.tickets.rerun} rerun[/]" if update.tickets.rerun else ""
            aside = f", [yellow]{update.tickets.set_aside} set aside[/]" if update.tickets.set_aside else ""
            grid.add_row("staleness", f"{lags}; tickets {update.tickets.issued} issued, {update.tickets.trained} trained{rerun}{aside}")
        return grid


class LiveTable(ProgressTable):
    """The watcher that draws the table in a terminal, when there is news and otherwise when it is told to. `close` gives the terminal back.

    It has no thread that draws by itself: an error of a terminal that is gone is an error of this watcher.
    """

    def __init__(self, console: Console, title: str, place: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(title, place, clock)
        self._clock, self._drawn = clock, clock()
        self._live = Live(console=console, get_renderable=self.table, auto_refresh=False)
        self._live.start()

    def on(self, event: Event) -> None:
        super().on(event)
        if self._clock() - self._drawn >= LEAST_INTERVAL_S:
            self.refresh()

    def refresh(self) -> None:
        """Draw the table anew, with the time that has passed."""
        self._drawn = self._clock()
        self._live.refresh()

    def close(self) -> None:
        self._live.stop()


def _phase(progress: Progress) -> Table:
    """The progress of the phase: "12/20 updates ━━━━━╺━━━ 2 min 05 s left"."""
    cells: list[RenderableType] = []
    unit = UNITS.get(progress.phase, "")
    if progress.total:
        cells += [f"{progress.done}/{progress.total} {unit}", ProgressBar(progress.total, progress.done, width=2 * BAR_WIDTH)]
    if progress.phase == "evaluate" and progress.episodes:
        cells.append(f"{progress.successes} succeeded")
    if progress.loss is not None:
        cells.append(f"loss {progress.loss:.4f}")
    if progress.phase == "train":
        cells.append(number_of(progress.episodes, "episode"))
    left = progress.seconds_left()
    if left is not None:
        cells.append(f"[bold]{duration(left)} left[/]")
    row = Table.grid(padding=(0, 2))
    row.add_row(*cells)
    return row


def _evaluation(found: SuccessRate) -> str:
    return f"[bold]{evaluation_result(rate_json(found))}[/] of {number_of(found.episodes, 'episode')}"


def _rollouts(progress: Progress) -> tuple[str, str]:
    """The result of the latest update; and the moving average, with a line of small bars for the run so far."""
    latest = progress.rollouts[-1]
    if progress.by_return():
        history = [rollouts.mean_return for rollouts in progress.rollouts]
        now, recent = f"mean return {latest.mean_return:.1f}", f"{progress.recent_return():.1f}"
    else:
        history = [rollouts.successes / max(rollouts.episodes, 1) for rollouts in progress.rollouts]
        now, recent = f"success {success_of_episodes(rate_json(latest))}", success_of_episodes(progress.recent_success())
    return f"[bold]{escape(now)}[/]", f"[bold]{escape(recent)}[/]  [green]{_sparkline(history)}[/]"


def _sparkline(history: list[float]) -> str:
    low, high = min(0.0, *history), max(1.0, *history)
    return "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1))] for value in history)


def _workers(workers: Sequence[WorkerTime]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for worker in rows_to_show(workers):
        busy = sum(worker.busy.values())
        filled = round(busy * BAR_WIDTH)
        bar = Text.assemble(("█" * filled, "green"), ("░" * (BAR_WIDTH - filled), "dim"), f" {percent(busy):>5} busy")
        table.add_row(worker.name, bar, _causes(worker))
    return table


def _causes(worker: WorkerTime) -> str:
    stage, cause = largest(worker.busy), largest(worker.idle)
    parts = [f"{stage[0]} {percent(stage[1])}"] if stage else []
    parts += [f"[dim]waits for {cause[0]} {percent(cause[1])}[/]"] if cause else []
    return ", ".join(parts)
