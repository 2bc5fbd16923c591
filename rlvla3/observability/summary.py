"""The results of a run: summary.json.

Where a run goes on, its totals come from the accounts of its checkpoint, and the rest from the lines of metrics.jsonl. So the summary of a run that was killed
can be made again.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from statistics import fmean
from typing import Any

from rlvla3.config import Recipe
from rlvla3.observability.accounts import Accounts
from rlvla3.observability.continuing import Continuation, last_second
from rlvla3.observability.event_json import event_json
from rlvla3.observability.events import Event, Resumed
from rlvla3.observability.intervals import wilson
from rlvla3.observability.metrics_lines import JsonObject
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.version import __version__

RECENT_UPDATES = 3
"""Rollout success is shown as the mean over so many updates. The rate of a single update with 64 episodes has a standard error of 6 %."""


MOST_NOTICES = 1000
"""The summary is written after each update, and has no more notices than these, the newest ones. metrics.jsonl has all."""


class Summary:
    """The watcher that writes summary.json after every update and evaluation.

    ended: how the run ended. It is "running" until the caller sets it to "finished", "interrupted" or "failed: ...", before `close`.
    protocol: of an evaluation, as JSON data.
    """

    def __init__(
        self,
        run: RunDirectory,
        recipe: Recipe,
        continued: Continuation | None = None,
        clock: Callable[[], float] = time.monotonic,
        protocol: Mapping[str, Any] | None = None,
    ) -> None:
        self.ended, self._protocol = "running", protocol
        self._run, self._recipe, self._clock = run, recipe, clock
        self._writes = continued is None
        """A run that goes on writes nothing before it is Resumed: it may be refused."""
        continued = continued or Continuation(None, Accounts())
        self._notices: deque[str] = deque((line["text"] for line in continued.lines if line["event"] == "notice"), maxlen=MOST_NOTICES)
        self._began = clock() - last_second(continued)
        self._recent: deque[JsonObject] = deque(maxlen=RECENT_UPDATES)
        self._times: defaultdict[str, _WorkerTotal] = defaultdict(_WorkerTotal)
        self._mismatch: JsonObject = {"mean": None, "p99": None}
        self._go_on_from(Accounts())
        for line in continued.lines:
            if line["event"] == "update":
                self._add_update(line)
        self._go_on_from(continued.accounts)

    def _go_on_from(self, accounts: Accounts) -> None:
        """Start with the totals of the accounts. What workers spent their time with is no total: it stays."""
        self._evaluations: dict[str, JsonObject] = {}
        self._during: dict[int, JsonObject] = {}
        self._best: JsonObject | None = None
        for record in accounts.evaluations:
            self._add_evaluation(record)
        self._episodes, self._successes, self._seconds = accounts.episodes, accounts.successes, accounts.seconds
        self._staleness = Counter({str(lag): episodes for lag, episodes in accounts.staleness.items()})
        self._totals: JsonObject = {
            "environment_steps": accounts.environment_steps,
            "throughput": accounts.environment_steps / accounts.seconds if accounts.seconds else 0.0,
            "updates": accounts.version,
            "tickets": asdict(accounts.tickets),
        }

    def on(self, event: Event) -> None:
        if isinstance(event, Resumed):
            if self._writes:  # the run has lost its trainer
                self._recent.clear()
                self._go_on_from(event.continuation.accounts)
            self._writes = True
            self._write()
        record = event_json(event)
        if record is not None:
            self._add(record)
            if record["event"] in ("update", "evaluation"):
                self._write()

    def close(self) -> None:
        self._write()

    def _write(self) -> None:
        if self._writes:
            self._run.write_summary(self.content())

    def content(self) -> dict[str, Any]:
        """The content of summary.json. Rates are shares in [0, 1], times are seconds, throughput is environment steps per second of training.

        evaluations: those beside training, by version. best: the evaluation of the best checkpoint, with evaluation.every.
        sampler_mismatch: the largest of any update, of the metrics of this name.
        """
        return {
            "success_before": self._evaluations.get("before"),
            "success_after": self._evaluations.get("after"),
            "success": self._evaluations.get("eval"),
            "evaluations": sorted(self._during.values(), key=lambda record: record["version"]),
            "best": self._best,
            **({"protocol": self._protocol} if self._protocol else {}),
            "rollouts": self._rollouts(),
            **self._totals,
            "sampler_mismatch": self._mismatch,
            "staleness": {lag: self._staleness[lag] for lag in sorted(self._staleness, key=int)},
            "workers": [{"name": name, **total.shares()} for name, total in self._times.items()],
            "mode": self._recipe.engine.mode,
            "seed": self._recipe.seed,
            "training_seconds": self._seconds,
            "wall_seconds": self._clock() - self._began,
            "ended": self.ended,
            "notices": list(self._notices),
            "version": __version__,
        }

    def _add(self, record: JsonObject) -> None:
        match record["event"]:
            case "update":
                self._add_update(record)
            case "evaluation":
                self._add_evaluation(record)
            case "notice":
                self._notices.append(record["text"])

    def _add_evaluation(self, record: Mapping[str, Any]) -> None:
        shown = {key: value for key, value in record.items() if key not in ("event", "when", "seconds", "best")}
        if record["when"] == "during":
            self._during[record["version"]] = shown
        else:
            self._evaluations[record["when"]] = shown
        if self._protocol and (lacks := record.get("deviations")):
            self._protocol = {**self._protocol, "deviations": [*self._protocol["deviations"], *lacks]}
        if record.get("best"):
            self._best = shown

    def _add_update(self, record: JsonObject) -> None:
        seconds, self._seconds = max(record["wall_seconds"] - self._seconds, 0.0), record["wall_seconds"]
        self._totals = {name: record[name] for name in ("environment_steps", "throughput", "tickets")} | {"updates": record["update"]}
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
        low, high = wilson(self._successes, self._episodes)
        return {"successes": self._successes, "episodes": self._episodes, "low": low, "high": high, "recent": recent}


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
