"""The results of a run: summary.json.

A summary is computed from the lines of metrics.jsonl. So the summary of a continued run includes what happened before, and the summary of a run that was killed
can be made again.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from rlvla3.config import Recipe
from rlvla3.observability.event_json import JsonObject, event_json
from rlvla3.observability.events import Event
from rlvla3.observability.intervals import wilson
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.version import __version__

RECENT_UPDATES = 3
"""Rollout success is shown as the mean over so many updates. The rate of a single update with 64 episodes has a standard error of 6 %."""


class Summary:
    """The watcher that writes summary.json after every update and evaluation.

    ended: how the run ended. It is "running" until the caller sets it to "finished", "interrupted" or "failed: ...", before `close`.
    """

    def __init__(self, run: RunDirectory, recipe: Recipe, clock: Callable[[], float] = time.monotonic) -> None:
        self.ended = "running"
        self._run, self._recipe, self._clock = run, recipe, clock
        self._evaluations: dict[str, JsonObject] = {}
        self._latest: JsonObject = {}
        self._recent: deque[JsonObject] = deque(maxlen=RECENT_UPDATES)
        self._staleness: Counter[str] = Counter()
        self._episodes = self._successes = 0
        self._times: defaultdict[str, _WorkerTotal] = defaultdict(_WorkerTotal)
        self._mismatch: JsonObject = {"mean": None, "p99": None}
        self._notices: list[str] = []
        earlier = run.metric_lines()
        for record in earlier:
            self._add(record)
        self._began = clock() - (earlier[-1]["seconds"] if earlier else 0.0)

    def on(self, event: Event) -> None:
        record = event_json(event)
        if record is not None:
            self._add(record)
            if record["event"] in ("update", "evaluation"):
                self._run.write_summary(self.content())

    def close(self) -> None:
        self._run.write_summary(self.content())

    def content(self) -> dict[str, Any]:
        """The content of summary.json. Rates are shares in [0, 1], times are seconds, throughput is environment steps per second of training.

        sampler_mismatch: the largest of any update, of the metrics of this name.
        """
        latest = self._latest
        return {
            "success_before": self._evaluations.get("before"),
            "success_after": self._evaluations.get("after"),
            "success": self._evaluations.get("eval"),
            "rollouts": self._rollouts(),
            "environment_steps": latest.get("environment_steps", 0),
            "throughput": latest.get("throughput", 0.0),
            "updates": latest.get("update", 0),
            "tickets": latest.get("tickets", {"issued": 0, "trained": 0, "rerun": 0}),
            "sampler_mismatch": self._mismatch,
            "staleness": {lag: self._staleness[lag] for lag in sorted(self._staleness, key=int)},
            "workers": [{"name": name, **total.shares()} for name, total in self._times.items()],
            "mode": self._recipe.engine.mode,
            "seed": self._recipe.seed,
            "training_seconds": latest.get("wall_seconds", 0.0),
            "wall_seconds": self._clock() - self._began,
            "ended": self.ended,
            "notices": self._notices,
            "version": __version__,
        }

    def _add(self, record: JsonObject) -> None:
        match record["event"]:
            case "update":
                self._add_update(record)
            case "evaluation":
                self._evaluations[record["when"]] = {key: value for key, value in record.items() if key not in ("event", "when", "seconds")}
            case "notice":
                self._notices.append(record["text"])

    def _add_update(self, record: JsonObject) -> None:
        seconds = max(record["wall_seconds"] - self._latest.get("wall_seconds", 0.0), 0.0)
        self._latest = record
        self._recent.append(record["rollouts"])
        self._episodes += record["rollouts"]["episodes"]
        self._successes += record["rollouts"]["successes"]
        self._staleness.update(record["staleness"])
        for part, largest in self._mismatch.items():
            if (found := record["learner"].get(f"sampler_mismatch_{part}")) is not None:
                self._mismatch[part] = max(found, largest or 0.0)
        for worker in record["workers"]:
            self._times[worker["name"]].add(worker, seconds)

    def _rollouts(self) -> JsonObject:
        """All episodes that were trained on, and those of the last few updates. They have exploration noise."""
        successes, episodes = (sum(rollouts[key] for rollouts in self._recent) for key in ("successes", "episodes"))
        low, high = wilson(successes, episodes)
        returns = [rollouts["mean_return"] for rollouts in self._recent if rollouts["mean_return"] is not None]
        recent = {"successes": successes, "episodes": episodes, "low": low, "high": high, "mean_return": fmean(returns) if returns else 0.0}
        return {"successes": self._successes, "episodes": self._episodes, "recent": recent}


class _WorkerTotal:
    """The seconds of one worker over all updates, by stage and by what it waited for."""

    def __init__(self) -> None:
        self._seconds: dict[str, defaultdict[str, float]] = {"busy": defaultdict(float), "idle": defaultdict(float)}

    def add(self, worker: Mapping[str, Any], seconds: float) -> None:
        for kind, spent in self._seconds.items():
            for name, share in worker[kind].items():
                spent[name] += (share or 0.0) * seconds

    def shares(self) -> dict[str, dict[str, float]]:
        total = sum(sum(spent.values()) for spent in self._seconds.values())
        return {kind: {name: seconds / total for name, seconds in spent.items()} if total else {} for kind, spent in self._seconds.items()}
