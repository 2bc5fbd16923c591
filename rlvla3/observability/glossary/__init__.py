"""The glossary of metrics: what each number of a run means, its unit, its formula, what is normal, and what to do if it is not.

It is the one place for the names and the units of metrics: the page, the explanation of a run, docs/metrics.md and `rlvla3 metrics` take them from here. A test
compares it with what runs report.

    metric.py    an entry, and how a name is found
    learning.py  episodes, evaluations, losses and ratios
    engine.py    speed, staleness, tickets, time of workers, batches, the machine
    printed.py   the glossary as text and as a page
"""

from __future__ import annotations

from rlvla3.observability.glossary.engine import ENGINE
from rlvla3.observability.glossary.learning import LEARNING
from rlvla3.observability.glossary.metric import Group, Metric

GROUPS: tuple[Group, ...] = (*LEARNING, *ENGINE)
METRICS: tuple[Metric, ...] = tuple(metric for group in GROUPS for metric in group.metrics)


def of_line(place: str) -> Metric | None:
    """The metric at a place in metrics.jsonl, such as update.learner.approx_kl or update.workers.busy.simulate. None where nobody knows it."""
    return next((metric for metric in METRICS if metric.is_at(place)), None)


def of_curve(name: str) -> Metric | None:
    """The metric of a curve of TensorBoard and trackers, such as learner/approx_kl. None where nobody knows it."""
    return next((metric for metric in METRICS if metric.is_curve(name)), None)
