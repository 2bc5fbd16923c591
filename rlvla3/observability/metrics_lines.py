"""The lines of metrics.jsonl: what each of them must hold, so that everything that reads them can rely on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvla3.errors import RecipeError
from rlvla3.metadata import Count, Metadata, checked, parse_json
from rlvla3.observability.accounts import EvaluationRecord, TicketRecord

JsonObject = dict[str, Any]


class _Line(Metadata):
    event: str
    seconds: float


class _Rollouts(Metadata):
    successes: Count
    episodes: Count
    mean_return: float | None


class _Worker(Metadata):
    name: str
    busy: dict[str, float | None]
    idle: dict[str, float | None]


class _Update(_Line):
    update: Count
    rollouts: _Rollouts
    learner: dict[str, float | None]
    environment_steps: Count
    throughput: float | None
    staleness: dict[str, Count]
    tickets: TicketRecord
    workers: list[_Worker]
    wall_seconds: float


class _Evaluation(_Line, EvaluationRecord):
    mean_return: float | None


class _CloneStep(_Line):
    step: Count
    total: Count
    loss: float | None


class _Notice(_Line):
    text: str


SCHEMAS: Mapping[str, type[_Line]] = {"update": _Update, "evaluation": _Evaluation, "clone": _CloneStep, "notice": _Notice}


@dataclass(frozen=True, slots=True)
class MetricsLines:
    """lines: those that can be relied on, in their order. damaged: the numbers of the others, from 1. A last line that was cut off when the process was
    killed is in neither."""

    lines: list[JsonObject]
    damaged: list[int]


def read_lines(path: Path) -> MetricsLines:
    """The lines of a metrics.jsonl. There are none where it is missing, or no file. Raises OSError where it cannot be read."""
    lines: list[JsonObject] = []
    damaged: list[int] = []
    content = path.read_bytes() if path.is_file() else b""
    texts = content.split(b"\n")
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        if (line := read_line(text)) is not None:
            lines.append(line)
        elif number < len(texts):  # what follows the last line break was cut off
            damaged.append(number)
    return MetricsLines(lines, damaged)


def read_line(text: bytes) -> JsonObject | None:
    """A line without its end. None where it cannot be relied on."""
    try:
        line: Any = parse_json(text, "", "")
        kind = line.get("event") if isinstance(line, dict) else None
        checked(SCHEMAS.get(kind, _Line) if isinstance(kind, str) else _Line, line, "", "")
    except RecipeError:
        return None
    whole: JsonObject = line
    return whole
