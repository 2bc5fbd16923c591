"""The accounts of a run: what it has done until a version. A checkpoint holds them in accounts.json, beside the weights of that version.

The trainer keeps the accounts, because it writes the checkpoints. A run that goes on from a checkpoint goes on with its accounts. metrics.jsonl and
summary.json show the same numbers, but the run does not depend on them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from rlvla3.metadata import Count, Metadata, checked, read_json
from rlvla3.types import Finished, TicketCounts, Version

FILE = "accounts.json"


class EvaluationRecord(Metadata):
    """What a line of metrics.jsonl says of an evaluation, at the least."""

    when: Literal["before", "during", "after", "eval"]
    version: Count
    successes: Count
    episodes: Count
    low: float
    high: float
    best: bool = False


class TicketRecord(Metadata):
    issued: Count
    trained: Count
    rerun: Count
    set_aside: Count = 0


class _Record(Metadata):
    """The content of the file."""

    version: Count
    tickets: TicketRecord
    episodes: Count
    successes: Count
    environment_steps: Count
    seconds: float
    staleness: dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")], Count]
    evaluations: list[dict[str, Any]]


@dataclass(frozen=True)
class Accounts:
    """What a run has done until `version`.

    tickets: `issued` counts those of later updates too. episodes, successes: those that were trained on. seconds: spent on training.
    staleness: {staleness: number of episodes}. evaluations: their lines of metrics.jsonl, without `seconds`.
    """

    version: Version = 0
    tickets: TicketCounts = field(default_factory=TicketCounts)
    episodes: int = 0
    successes: int = 0
    environment_steps: int = 0
    seconds: float = 0.0
    staleness: Mapping[int, int] = field(default_factory=dict)
    evaluations: Sequence[Mapping[str, Any]] = ()

    def and_update(self, episodes: Sequence[Finished], tickets: TicketCounts, seconds: float) -> Accounts:
        """The accounts after one more update. episodes: those of the update. tickets: the counts of the whole run when the last of these episodes had ended.
        seconds: that training took until now."""
        ran = [episode for episode in episodes if not episode.set_aside]
        lags = Counter(self.version - episode.oldest for episode in ran)
        return replace(
            self,
            version=self.version + 1,
            tickets=replace(tickets, trained=self.tickets.trained + len(episodes)),
            episodes=self.episodes + len(ran),
            successes=self.successes + sum(episode.success for episode in episodes),
            environment_steps=self.environment_steps + sum(episode.steps for episode in episodes),
            seconds=seconds,
            staleness=Counter(self.staleness) + lags,
        )

    def and_evaluation(self, record: Mapping[str, Any]) -> Accounts:
        """The accounts with one more evaluation. A second one of the same moment and version is left out."""
        key = evaluation_key(record)
        return self if key in map(evaluation_key, self.evaluations) else replace(self, evaluations=(*self.evaluations, record))

    def and_evaluations(self, records: Sequence[Mapping[str, Any]]) -> Accounts:
        """The accounts with these evaluations too."""
        accounts = self
        for record in records:
            accounts = accounts.and_evaluation(record)
        return accounts

    def evaluated(self, when: str, version: Version | None = None) -> bool:
        """Whether this evaluation is done. version: of the policy (None: any)."""
        return any(record["when"] == when and version in (None, record["version"]) for record in self.evaluations)

    def write(self, folder: Path) -> None:
        """Raises OSError."""
        content = asdict(self) | {"staleness": {str(lag): count for lag, count in sorted(self.staleness.items())}}
        (folder / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Accounts | None:
        """The accounts in a checkpoint. None where there are none: an earlier release wrote it. Raises RecipeError where they are damaged."""
        path = folder / FILE
        if not path.exists():
            return None
        way_out = "Go on from an earlier checkpoint"
        record = checked(_Record, read_json(path, way_out), str(path), way_out)
        for evaluation in record.evaluations:
            checked(EvaluationRecord, evaluation, f"{path}: evaluations", way_out)
        tickets = TicketCounts(**record.tickets.model_dump())
        staleness = {int(lag): count for lag, count in record.staleness.items()}
        return cls(**dict(record) | {"tickets": tickets, "staleness": staleness, "evaluations": tuple(record.evaluations)})


def evaluation_key(record: Mapping[str, Any]) -> tuple[Any, Any]:
    """No two evaluations of a run have the same key."""
    return record["when"], record["version"]
