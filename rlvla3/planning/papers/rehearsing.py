"""A row of the papers' tables as a recipe of ours, and its step time on the virtual clock.

How the papers' schedules are set in this engine:
- the rollout in lock-step: one shard a simulating GPU, with all its environments; inference waits for everybody (B_max and T_max without limit);
- the asynchronous rollout: two shards a simulating GPU, each with half of its environments, and B_max of one shard, so that one half simulates while the other
  is inferred for ("splits batches into smaller pieces", section 4.2.1);
- training beside the rollouts: streaming with max_staleness 0, so that training overlaps the rollout epochs of its own step and nothing crosses its end. What
  reaches the trainer is a rollout epoch: its episodes, all of one length, end together. With the streamer micro-batches have Table 2's size, without it they
  are whole rollout epochs;
- T+R: the rollout GPUs are halved, one half for simulators and one for inference;
- the update epochs are inside what a decision costs to train on, and an update is one accumulation.
"""

from __future__ import annotations

from typing import Any, Literal

from rlvla3.config import Recipe, make_recipe
from rlvla3.planning.papers.rows import OVERLAPPING, Row
from rlvla3.planning.rehearsal import rehearse
from rlvla3.runtimes.virtual.costs import Profile

Control = Literal["no overlap", "overlap across steps"]
"""Schedules that are not the papers': what the comparison must be able to tell from theirs."""

CONTROLS: dict[Control, dict[str, Any]] = {
    "no overlap": {"streaming": False, "max_staleness": 0},
    "overlap across steps": {"streaming": True, "max_staleness": 1},
}


def recipe_of(row: Row, control: Control | None = None) -> Recipe:
    """The row's run in our settings; control: with another overlap instead of its own."""
    halves = 2 if row.strategy in ("async rollout", "async training + rollout", "all") else 1
    simulating = row.parts[0] // 2 if row.variant == "T+R" else row.parts[0]
    slots = row.environments // simulating // halves
    kind, ratio = _placement(row)
    whole_epoch = row.environments * row.setup.decisions // row.parts[1]
    engine = {"max_staleness": 0, "streaming": row.strategy in OVERLAPPING} | (CONTROLS[control] if control else {})
    return make_recipe(
        {
            "simulator": {"name": f"papers:{row.setup.benchmark}", "shards": simulating * halves, "slots": slots},
            "policy": {"name": f"papers:{row.model}", "chunk": row.setup.chunk},
            "algorithm": {"advantage": "reinforce++"},
            "training": {
                "batch": row.environments * row.setup.rollout_epochs,
                "steps": 1,
                "epochs": 1,
                "micro_batch": row.setup.micro_batch if row.strategy == "all" else whole_epoch,
            },
            "engine": {"max_batch": slots if halves == 2 else 0, "max_wait_ms": None, **engine},
            "placement": {"kind": kind, "ratio": ratio},
        }
    )


def step_time(row: Row, profile: Profile, control: Control | None = None) -> float:
    """Seconds of a step in rehearsal. Costs are fixed, and without staleness every step is as the first, so one is enough."""
    if row.variant == "up=2":
        halved = profile.train.model_copy(update={"seconds": [seconds / 2 for seconds in profile.train.seconds]})
        profile = profile.model_copy(update={"train": halved})
    recipe = recipe_of(row, control)
    settled = recipe.engine.max_staleness == 0
    return rehearse(recipe, profile, row.cluster, updates=1 if settled else 2, warmup=0 if settled else 1).step_time


def _placement(row: Row) -> tuple[str, str]:
    """kind and ratio, in our words."""
    if ":" not in row.ratio:
        return row.ratio, ""
    if row.variant == "T+R":
        return "separate", f"{row.parts[0] // 2}:{row.parts[0] // 2}:{row.parts[1]}"
    return "disaggregated", row.ratio
