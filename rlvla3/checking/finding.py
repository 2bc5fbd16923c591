"""A check, its findings and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from rlvla3.checking.evidence import NotApplicable

Verdict = Literal["passed", "warning", "failed", "not applicable"]

SubjectT = TypeVar("SubjectT")
"""What is checked: the evidence of a simulator, or a policy on trial."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong; as a warning, something that may be intended; as a fact, something to know of a passed check.

    message: what was seen, what was expected, and what to do.
    """

    message: str
    verdict: Verdict = "failed"


def warning(message: str) -> Finding:
    """A finding that may be intended."""
    return Finding(message, "warning")


def fact(message: str) -> Finding:
    """What was found of something that is as it should be."""
    return Finding(message, "passed")


@dataclass(frozen=True)
class Check(Generic[SubjectT]):
    """One requirement. demand: what has to be done, in a sentence. find: what is wrong with the subject; it may raise NotApplicable."""

    name: str
    demand: str
    find: Callable[[SubjectT], Iterator[Finding]]


@dataclass(frozen=True)
class Result:
    """The result of a check. messages: one for each finding that led to the verdict, or the reason why the check is not applicable."""

    check: Check[Any]
    verdict: Verdict
    messages: tuple[str, ...] = ()


def run_check(check: Check[SubjectT], subject: SubjectT) -> Result:
    """Run one check."""
    try:
        findings = list(check.find(subject))
    except NotApplicable as reason:
        return Result(check, "not applicable", (str(reason),))
    wrong = [finding for finding in findings if finding.verdict != "passed"]
    verdict: Verdict = "passed" if not wrong else "failed" if any(finding.verdict == "failed" for finding in wrong) else "warning"
    return Result(check, verdict, tuple(dict.fromkeys(finding.message for finding in wrong or findings)))
