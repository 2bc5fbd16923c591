"""The recipes of the benchmark: a tiny policy and quick environments, in a few settings that differ in what runs beside what."""

from __future__ import annotations

from typing import Any

SETTINGS = ("sync", "async", "ranks", "slow trainer")
"""sync: the weights are those of an undisturbed run, bit for bit. async: two generators. ranks: two trainer processes.
slow trainer: many updates wait for the trainer."""

MANY = 1_000_000
"""More updates than any run makes. A run ends when it is interrupted."""

EVERY = 4
"""Updates from one checkpoint to the next."""


def recipe(setting: str, updates: int = MANY, ray_address: str | None = None) -> dict[str, Any]:
    """The recipe of a setting. ray_address: of the cluster that it runs on (None: on this host alone)."""
    settings: dict[str, Any] = {
        "simulator": {
            "name": "rlvla3.benchmarks.chaos.world:World",
            "shards": 4,
            "max_steps": 6,
            "timeout_s": 4.0,
            "build_timeout_s": 120.0,
            "delay": {"step": 0.02},
        },
        "policy": {"name": "rlvla3.benchmarks.chaos.learner:Learner", "chunk": 2, "options": {"hidden": 8}},
        "training": {"updates": updates, "batch": 8, "steps": 2, "epochs": 2, "micro_batch": 5, "checkpoint_every": EVERY, "critic": {"epochs": 1}},
        "engine": {"mode": "full_async", "max_restarts": 1000},
        "supervision": {"notice_s": 4.0, "answer_timeout_s": 10.0, "stage_timeout_s": 10.0, "build_timeout_s": 120.0},
        "evaluation": {"episodes": 4, "before": True, "after": False},
    }
    match setting:
        case "sync":
            # Each decision alone in its batch, as the last bits of a decision depend on what else is in it.
            settings["engine"] |= {"mode": "sync", "max_batch": 1, "max_wait_ms": 0.0}
            settings["training"]["deterministic"] = True
        case "async":
            settings["engine"] |= {"generators": 2, "max_staleness": 2}
        case "ranks":
            settings["training"]["ranks"] = 2
        case "slow trainer":
            settings["engine"]["max_staleness"] = 8
            settings["policy"]["options"]["pass_s"] = 0.02
    return settings | ({"runtime": "ray", "ray": {"address": ray_address}} if ray_address is not None else {})
