"""Many workers' times as few."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from rlvla3.observability.events import WorkerTime

MOST_ROWS = 8
"""Workers of one kind that are shown one by one; more are shown as their mean."""


def kind_of(worker: WorkerTime) -> str:
    """What a worker is: its name without its numbers ("shard 3" and "shard 1.3" are a "shard")."""
    return re.sub(r"([\W_]*\d+)+$", "", worker.name) or worker.name


def by_kind(workers: Iterable[WorkerTime]) -> dict[str, list[WorkerTime]]:
    """Workers of each kind, in the order in which kinds and workers come."""
    kinds: dict[str, list[WorkerTime]] = {}
    for worker in workers:
        kinds.setdefault(kind_of(worker), []).append(worker)
    return kinds


def mean_of(name: str, workers: Sequence[WorkerTime]) -> WorkerTime:
    """The mean worker, under `name`. Its shares sum to 1 as theirs do."""
    return WorkerTime(name, _mean([worker.busy for worker in workers]), _mean([worker.idle for worker in workers]))


def shown(workers: Sequence[WorkerTime], most: int = MOST_ROWS) -> list[WorkerTime]:
    """`workers`, where more than `most` of one kind have become one mean row such as "shard x16"."""
    rows: list[WorkerTime] = []
    for kind, members in by_kind(workers).items():
        rows += members if len(members) <= most else [mean_of(f"{kind} x{len(members)}", members)]
    return rows


def largest(shares: Mapping[str, float]) -> tuple[str, float] | None:
    """The largest share and its name; None where there is none."""
    return max(shares.items(), key=lambda share: share[1], default=None)


def _mean(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for share in shares for name in share)
    return {name: fmean(share.get(name, 0.0) for share in shares) for name in names}
