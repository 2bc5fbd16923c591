"""Figures of the learner that are far from normal, with what the glossary says to do about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rlvla3.observability.glossary import of_curve

JsonObject = Mapping[str, Any]

LIMITS: Mapping[str, tuple[float, float]] = {
    "approx_kl": (float("-inf"), 0.1),
    "clip_share": (float("-inf"), 0.4),
    "explained_variance": (-0.2, float("inf")),
    "filtered_share": (float("-inf"), 0.9),
    "staleness_kl": (float("-inf"), 0.1),
}
"""Beyond these, a mean over the last updates is worth a sentence. They are wider than what the glossary calls normal."""

LAST = 10
"""Updates that a mean is taken over."""

MOST = 2
"""Figures of one sentence."""


def unusual(updates: Sequence[JsonObject]) -> str:
    """What is unusual in the last updates, in sentences. Empty where nothing is."""
    last = [line["learner"] for line in updates[-LAST:]]
    if not last:
        return ""
    if broken := [name for name, value in last[-1].items() if value is None]:
        names = ", ".join(f"learner/{name}" for name in broken[:MOST])
        return f"The last update has no number for {names}: training has diverged, so go on from an earlier checkpoint with a lower training.learning_rate."
    said = []
    for name, (low, high) in LIMITS.items():
        values = [figures[name] for figures in last if figures.get(name) is not None]
        if values and not low <= (mean := fmean(values)) <= high:
            said.append(_in_words(f"learner/{name}", mean))
    return " ".join(said[:MOST])


def _in_words(curve: str, mean: float) -> str:
    metric = of_curve(curve)
    normal = f" (normal: {metric.normal.rstrip('.').lower()})" if metric and metric.normal else ""
    return f"{curve} is {mean:.3g}{normal}. {metric.otherwise if metric else ''}".strip()
