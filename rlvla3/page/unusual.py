"""Figures of the learner that are far from normal, with what the glossary says to do about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rlvla3.config import Recipe
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


STILL = 1e-7
"""A mean KL below this is what rounding makes: the policy does not move."""


def unusual(updates: Sequence[JsonObject], recipe: Recipe | None) -> str:
    """What is unusual in the last updates, in sentences. Empty where nothing is."""
    last = [line["learner"] for line in updates[-LAST:]]
    if not last:
        return ""
    if broken := [name for name, value in last[-1].items() if value is None]:
        names = ", ".join(f"learner/{name}" for name in broken[:MOST])
        return f"The last update has no number for {names}: training has diverged, so go on from an earlier checkpoint with a lower training.learning_rate."
    said = [text] if recipe is not None and (text := _stands_still(updates, recipe)) else []
    for name, (low, high) in LIMITS.items():
        values = [figures[name] for figures in last if figures.get(name) is not None]
        if values and not low <= (mean := fmean(values)) <= high:
            said.append(_in_words(f"learner/{name}", mean))
    return " ".join(said[:MOST])


def _stands_still(updates: Sequence[JsonObject], recipe: Recipe) -> str:
    """That the policy does not change, where this can be seen. In the first optimizer step of an update the KL is 0 in any run, and so it is while only the
    critic learns."""
    training = recipe.training
    kl = [line["learner"]["approx_kl"] for line in updates[-LAST:] if line["update"] > training.critic.warmup and line["learner"].get("approx_kl") is not None]
    if training.epochs * training.steps == 1 or len(kl) < LAST or not 0 <= fmean(kl) < STILL:
        return ""
    return f"The policy hardly changes (learner/approx_kl is {fmean(kl):.1g}): raise training.learning_rate, which is {recipe.training.learning_rate:g}."


def _in_words(curve: str, mean: float) -> str:
    metric = of_curve(curve)
    normal = f" (normal: {metric.normal.rstrip('.').lower()})" if metric and metric.normal else ""
    return f"{curve} is {mean:.3g}{normal}. {metric.otherwise if metric else ''}".strip()
