"""A row of the papers' tables as a recipe of this engine, and its step time on the virtual clock.

The papers' schedules in the settings of this engine:
- rollout in lock-step: one shard per GPU with simulators, with all of the GPU's environments. Inference waits for all requests (B_max and T_max without limit).
- asynchronous rollout: two shards per GPU with simulators, each with half of the GPU's environments, and B_max of one shard. One half simulates while the
  policy infers for the other half ("splits batches into smaller pieces", section 4.2.1).
- training that overlaps rollouts: streaming with max_staleness 0. Training overlaps the rollout epochs of its own step, and nothing crosses the end of a step.
  All episodes have one length, so a whole rollout epoch reaches the trainer at once. With the streamer, micro-batches have the size in Table 2; without it, a
  micro-batch is a whole rollout epoch.
- T+R: half of the rollout GPUs are for simulators, and half for inference.
- The update epochs are part of the training cost of a decision, and an update is one gradient accumulation.
"""

from __future__ import annotations

from typing import Any, Literal

from rlvla3.config import Recipe, make_recipe
from rlvla3.planning.papers.rows import OVERLAPPING, Row
from rlvla3.planning.rehearsal import rehearse
from rlvla3.runtimes.virtual.costs import Profile

Control = Literal["no overlap", "overlap across steps"]
"""Schedules that the papers do not use. The comparison must be able to distinguish them from the papers' schedules."""

CONTROLS: dict[Control, dict[str, Any]] = {
    "no overlap": {"streaming": False, "max_staleness": 0},
    "overlap across steps": {"streaming": True, "max_staleness": 1},
}


def row_recipe(row: Row, control: Control | None = None) -> Recipe:
    """The row's run as a recipe of this engine. control: another schedule that replaces the row's own."""
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
            "engine": {"max_batch": slots if halves == 2 else None, "max_wait_ms": None, **engine},
            "placement": {"kind": kind, "ratio": ratio},
        }
    )


def step_time(row: Row, profile: Profile, control: Control | None = None) -> float:
    """The seconds of a rehearsed step. Costs are fixed, so without staleness all steps are equal, and one is enough."""
    if row.variant == "up=2":
        halved = profile.train.model_copy(update={"seconds": [seconds / 2 for seconds in profile.train.seconds]})
        profile = profile.model_copy(update={"train": halved})
    recipe = row_recipe(row, control)
    settled = recipe.engine.max_staleness == 0
    return rehearse(recipe, profile, row.cluster, updates=1 if settled else 2, warmup=0 if settled else 1).step_time


def _placement(row: Row) -> tuple[str, str]:
    """The kind and the ratio of the row's placement, as in a recipe."""
    if ":" not in row.ratio:
        return row.ratio, ""
    if row.variant == "T+R":
        return "separate", f"{row.parts[0] // 2}:{row.parts[0] // 2}:{row.parts[1]}"
    return "disaggregated", row.ratio
