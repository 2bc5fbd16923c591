"""An entry of the glossary, and how it is found by a name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that a run reports, or several of one kind.

    line: its place in a line of metrics.jsonl, "" where it is a curve only. It begins with the event. In names, {task} stands for any task, and [...] for a
    part that may be left out. curve: its name in TensorBoard and trackers, "" where it is no curve. unit: "" for what is no number. normal: what it usually is.
    otherwise: what to do if it is not.
    """

    meaning: str
    unit: str = ""
    line: str = ""
    curve: str = ""
    formula: str = ""
    normal: str = ""
    otherwise: str = ""

    @property
    def name(self) -> str:
        """What it is called: by its curve, where it has one."""
        return self.curve or self.line

    def is_at(self, place: str) -> bool:
        return bool(self.line) and _pattern(self.line).fullmatch(place) is not None

    def is_curve(self, name: str) -> bool:
        return bool(self.curve) and _pattern(self.curve).fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Group:
    """Metrics that belong together. about: what they have in common."""

    title: str
    about: str
    metrics: tuple[Metric, ...]


NAMES = {"task": ".+", "kind": "[^/]+"}
"""What may stand for a name in braces. For any other it is a word."""


@cache
def _pattern(name: str) -> re.Pattern[str]:
    optional = re.escape(name).replace(r"\[", "(?:").replace(r"\]", ")?")
    return re.compile(re.sub(r"\\\{(\w+)\\\}", lambda found: NAMES.get(found[1], r"\w+"), optional), re.DOTALL)
