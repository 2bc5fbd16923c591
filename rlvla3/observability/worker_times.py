"""Means over workers of one kind, to show many workers in a few rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from rlvla3.observability.events import WorkerTime

MAX_ROWS = 8
"""Up to so many workers of one kind are shown one by one. More are shown as their mean."""


def kind_of(worker: WorkerTime) -> str:
    """The kind of a worker: its name without its numbers. "shard 3" and "shard 1.3" are of kind "shard"."""
    return kind_of_name(worker.name)


def kind_of_name(name: str) -> str:
    """The kind of the worker of this name."""
    return re.sub(r"([\W_]*\d+)+$", "", name) or name


def by_kind(workers: Iterable[WorkerTime]) -> dict[str, list[WorkerTime]]:
    """The workers of each kind. Kinds and workers keep their order."""
    kinds: dict[str, list[WorkerTime]] = {}
    for worker in workers:
        kinds.setdefault(kind_of(worker), []).append(worker)
    return kinds


def mean_of(name: str, workers: Sequence[WorkerTime]) -> WorkerTime:
    """The mean over workers, under `name`. Its shares sum to 1, as theirs do."""
    return WorkerTime(name, _mean([worker.busy for worker in workers]), _mean([worker.idle for worker in workers]))


def rows_to_show(workers: Sequence[WorkerTime], max_rows: int = MAX_ROWS) -> list[WorkerTime]:
    """The rows to show. Where there are more than `max_rows` workers of a kind, they become one row with their mean, such as "shard x16"."""
    rows: list[WorkerTime] = []
    for kind, members in by_kind(workers).items():
        rows += members if len(members) <= max_rows else [mean_of(f"{kind} x{len(members)}", members)]
    return rows


def largest(shares: Mapping[str, float]) -> tuple[str, float] | None:
    """The largest share and its name. None where there is no share."""
    return max(shares.items(), key=lambda share: share[1], default=None)


def _mean(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for share in shares for name in share)
    return {name: fmean(share.get(name, 0.0) for share in shares) for name in names}
