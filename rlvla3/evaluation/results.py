"""results.json: what came of an evaluation, so that others can check it: each episode, each task, each suite, and the protocol.

docs/evaluation.md says what each field means. A change of a field's meaning changes FORMAT.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rlvla3.config import Recipe
from rlvla3.evaluation.picture import draw_results, has_matplotlib
from rlvla3.observability.event_json import rate_json
from rlvla3.observability.events import EpisodeFinished, EvaluationFinished, Event, PhaseStarted, SuccessRate
from rlvla3.observability.formatting import number_of
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.run_directory import RunDirectory, complete_file
from rlvla3.types import Finished
from rlvla3.version import __version__

FORMAT = "evaluation 1"
RESULTS, PICTURE = "results.json", "results.png"


class ResultsFile:
    """The watcher that writes results.json and results.png when an evaluation has ended, also where it ended before all of its episodes.

    protocol: as AppliedProtocol.json has it; None without a protocol. tell: called with a sentence for the user.
    """

    def __init__(self, run: RunDirectory, recipe: Recipe, protocol: Mapping[str, Any] | None, tell: Callable[[str], None]) -> None:
        self._run, self._recipe, self._protocol, self._tell = run, recipe, protocol, tell
        self._episodes: list[Finished] = []

    def on(self, event: Event) -> None:
        match event:
            case PhaseStarted():
                self._episodes.clear()
            case EpisodeFinished(finished):
                self._episodes.append(finished)
            case EvaluationFinished():
                results = self._results(event)
                with complete_file(self._run.path / RESULTS) as beside:
                    beside.write_text(json.dumps(results, indent=2) + "\n")
                self._draw(results)
                if event.planned is not None:
                    self._tell(
                        f"{self._run.path / RESULTS} has the first {number_of(len(results['episodes']), 'episode')} of {event.planned}: "
                        f"the evaluation ended before the others"
                    )

    def close(self) -> None:
        """Does nothing: the session says when an evaluation has ended, in whatever way."""

    def _results(self, event: EvaluationFinished) -> dict[str, Any]:
        ran = sorted((episode for episode in self._episodes if not episode.set_aside), key=lambda episode: episode.ticket.index)
        policy, protocol = self._recipe.policy, self._protocol
        if protocol is not None:
            protocol = {**protocol, "deviations": [*protocol["deviations"], *event.deviations]}
        return {
            "format": FORMAT,
            "rlvla3": __version__,
            "policy": {"name": policy.name, "checkpoint": None if policy.checkpoint is None else str(policy.checkpoint), "updates": event.version},
            "simulators": {name: config.name for name, config in self._recipe.mixed.items()},
            "protocol": protocol,
            "complete": event.planned is None,
            "planned": self._recipe.evaluation.episodes if event.planned is None else event.planned,
            "success": rate(event.success),
            "per_suite": _by(ran, lambda episode: episode.ticket.task.partition("/")[0]) if any("/" in episode.ticket.task for episode in ran) else {},
            "per_task": _by(ran, lambda episode: episode.ticket.task),
            "initial_states": event.initial_states.json() if event.initial_states else None,
            "set_aside": len(self._episodes) - len(ran),
            "episodes": [_episode(episode) for episode in ran],
        }

    def _draw(self, results: Mapping[str, Any]) -> None:
        if not results["per_task"]:
            return
        if not has_matplotlib():
            self._tell(f"no {PICTURE} is drawn, because matplotlib is not installed: pip install 'rlvla3[plots]' before the next evaluation")
            return
        with complete_file(self._run.path / PICTURE) as beside:
            draw_results(beside, results)


def rate(success: SuccessRate) -> dict[str, Any]:
    """A rate, never without its episodes and its interval."""
    plain = rate_json(success)
    plain.pop("per_task", None)
    return {"rate": success.successes / success.episodes if success.episodes else None, **plain}


def _by(episodes: Sequence[Finished], key: Callable[[Finished], str]) -> dict[str, Any]:
    """{group: its rate}."""
    return {name: rate(success_rate(list(group))) for name, group in groupby(sorted(episodes, key=key), key=key)}


def _episode(episode: Finished) -> dict[str, Any]:
    ticket = episode.ticket
    return {
        "task": ticket.task,
        "initial_state": ticket.initial_state,
        "seed": ticket.seed,
        "success": episode.success,
        "steps": episode.steps,
        "return": episode.return_,
    }


def read_results(path: Path) -> dict[str, Any]:
    """The content of a results.json."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
