"""What came of a run, read from its run directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import Recipe, path_of
from rlvla3.observability.formatting import evaluation_result, number_of
from rlvla3.observability.metrics_lines import JsonObject
from rlvla3.observability.run_directory import RunDirectory, RunDirectoryError, version_of
from rlvla3.observability.trust import check_trust

if TYPE_CHECKING:
    from rlvla3.api.policy import LoadedPolicy

Array = NDArray[np.float64] | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a policy did without exploration noise.

    version: updates behind the policy. when: "before", "during" or "after" training, or "eval" for an evaluation of its own. low, high: the 95 % Wilson score
    interval of the success rate. mean_return: of undiscounted returns. mean_steps: environment steps. per_task: the same for each task, where there are
    several. path: the run directory that it is kept in. initial_states: from which initial states of fixed sets it began, and how many of them were trained
    on, as in metrics.jsonl. None where simulators draw initial states from seeds. planned: how many episodes it was to have, where it ended before them; None
    where it is complete.
    """

    version: int
    when: str
    successes: int
    episodes: int
    low: float
    high: float
    mean_return: float
    mean_steps: float
    path: Path
    per_task: Mapping[str, Evaluation] = field(default_factory=dict)
    initial_states: Mapping[str, Any] | None = None
    planned: int | None = None

    @property
    def success(self) -> float:
        """The share of episodes that succeeded, in [0, 1]."""
        return self.successes / self.episodes

    def __str__(self) -> str:
        about = {"successes": self.successes, "episodes": self.episodes, "low": self.low, "high": self.high, "mean_return": self.mean_return}
        return f"{evaluation_result(about)} of {number_of(self.episodes, 'episode')}"


class Run:
    """A run directory. It is read anew at each access, so a run that is still going on can be watched from another process.

        run = Run("runs/demo")
        run.metrics["success"]           # float64 [updates]
        run.evaluations[-1].success
        run.policy().act(observation)

    trust: whether the run of somebody else may name code that is no part of rlvla3 (docs/security.md). `recipe` and `policy`, and training from this Run, need
    it then. Raises RunDirectoryError where there is no run directory at `folder`.
    """

    def __init__(self, folder: str | PathLike[str], *, trust: bool = False) -> None:
        self._directory = RunDirectory.open(path_of(folder))
        self.trusted = trust

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._directory.path

    @property
    def recipe(self) -> Recipe:
        """The settings of the run, defaults included. Raises RunDirectoryError where they name code that is not trusted."""
        check_trust(self.path, trust=self.trusted)
        return self._directory.recipe()

    @property
    def metrics(self) -> dict[str, Array]:
        """One array for each metric, over the updates so far: all have the shape [updates]. A value that is missing is nan. Empty before the first update.

        update: 1, 2, ... (int64, as are environment_steps, episodes, successes and tickets_*). wall_seconds: since training began.
        environment_steps: since training began. throughput: environment steps a second since then. episodes, successes, success (share), mean_return,
        mean_steps: of the episodes of the update, with exploration noise. staleness: its mean over these episodes; max_staleness: the largest.
        tickets_issued, tickets_trained, tickets_rerun, tickets_set_aside: since training began. learner/NAME: what the learner measured, such as
        learner/gradient_norm.
        busy/WORKER: the share of the time in which that worker was not waiting.
        """
        # A run that lost its trainer goes on from a checkpoint and repeats the updates after it: the last record of each counts.
        rows = {record["update"]: _metrics(record) for record in self._directory.metric_lines() if record["event"] == "update"}
        return _columns([rows[update] for update in sorted(rows)])

    @property
    def cloning(self) -> dict[str, Array]:
        """The curve of behaviour cloning: step (int64) and loss, both [steps that were written down]. Empty without cloning."""
        return _columns([{"step": record["step"], "loss": record["loss"]} for record in self._directory.metric_lines() if record["event"] == "clone"])

    @property
    def evaluations(self) -> list[Evaluation]:
        """The evaluations that the run itself made, oldest first."""
        return [_evaluation(record, self.path) for record in self._directory.metric_lines() if record["event"] == "evaluation"]

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json. Raises RunDirectoryError before it is written."""
        if not self._directory.summary.is_file():
            raise RunDirectoryError(f"{self.path} has no summary.json yet: it is written after the first update or evaluation")
        summary: dict[str, Any] = json.loads(self._directory.summary.read_text())
        return summary

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoint folders that have been kept, oldest first."""
        return self._directory.all_checkpoints()

    @property
    def best_checkpoint(self) -> Path | None:
        """The checkpoint with the best evaluation beside training (evaluation.every). None where there is none."""
        return self._directory.best_checkpoint()

    @property
    def version(self) -> int:
        """The updates behind the newest checkpoint; 0 before the first."""
        return version_of(self.checkpoints[-1]) if self.checkpoints else 0

    def policy(self, device: str = "cpu") -> LoadedPolicy:
        """The policy of the newest checkpoint. Raises RunDirectoryError before the first. For another checkpoint use `load_policy(checkpoint)`."""
        from rlvla3.api.policy import load_policy

        return load_policy(self.path, device, trust=self.trusted)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.path.resolve() == other.path.resolve()

    def __hash__(self) -> int:
        return hash(self.path.resolve())

    def __fspath__(self) -> str:
        return str(self.path)


def _metrics(record: JsonObject) -> dict[str, int | float | None]:
    rollouts, tickets, workers = record["rollouts"], record["tickets"], record["workers"]
    lags = {int(lag): episodes for lag, episodes in record["staleness"].items()}
    return {
        "update": record["update"],
        "wall_seconds": record["wall_seconds"],
        "environment_steps": record["environment_steps"],
        "throughput": record["throughput"],
        "episodes": rollouts["episodes"],
        "successes": rollouts["successes"],
        "success": rollouts["successes"] / max(rollouts["episodes"], 1),
        "mean_return": rollouts["mean_return"],
        "mean_steps": rollouts["mean_steps"],
        "staleness": sum(lag * episodes for lag, episodes in lags.items()) / max(sum(lags.values()), 1),
        "max_staleness": max(lags, default=0),
        **{f"tickets_{name}": tickets.get(name, 0) for name in ("issued", "trained", "rerun", "set_aside")},
        **{f"learner/{name}": value for name, value in record["learner"].items()},
        **{f"busy/{worker['name']}": sum(share or 0.0 for share in worker["busy"].values()) for worker in workers},
    }


def _columns(rows: Sequence[Mapping[str, int | float | None]]) -> dict[str, Array]:
    """Arrays by name. A column is int64 where every row has a whole number, and else float64 with nan where a row has none."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _column([row.get(name) for row in rows]) for name in names}


def _column(values: Sequence[int | float | None]) -> Array:
    if all(isinstance(value, int) for value in values):
        return np.array(values, np.int64)
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _evaluation(record: JsonObject, path: Path) -> Evaluation:
    about = {"version": record["version"], "when": record["when"]}
    return Evaluation(
        **about,
        **{name: record[name] for name in ("successes", "episodes", "low", "high", "mean_steps")},
        mean_return=np.nan if record["mean_return"] is None else record["mean_return"],
        path=path,
        per_task={task: _evaluation(about | of_task, path) for task, of_task in record.get("per_task", {}).items()},
        initial_states=record.get("initial_states"),
        planned=record.get("planned"),
    )
