"""A check, its findings and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from rlvla3.checking.evidence import Evidence, NotApplicable

Verdict = Literal["passed", "warning", "failed", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or, as a warning, something that may be intended. message: what was seen, what was expected, and what to do."""

    message: str
    is_failure: bool = True


def warning(message: str) -> Finding:
    """A finding that may be intended."""
    return Finding(message, is_failure=False)


@dataclass(frozen=True)
class Check:
    """One requirement. demand: what a simulator has to do, in a sentence. find: what the evidence shows to be wrong; it may raise NotApplicable."""

    name: str
    demand: str
    find: Callable[[Evidence], Iterator[Finding]]


@dataclass(frozen=True)
class Result:
    """The result of a check. messages: one for each finding, or the reason why the check is not applicable."""

    check: Check
    verdict: Verdict
    messages: tuple[str, ...] = ()


def run_check(check: Check, evidence: Evidence) -> Result:
    """Run one check on the evidence."""
    try:
        findings = list(check.find(evidence))
    except NotApplicable as reason:
        return Result(check, "not applicable", (str(reason),))
    if not findings:
        return Result(check, "passed")
    failed = any(finding.is_failure for finding in findings)
    return Result(check, "failed" if failed else "warning", tuple(dict.fromkeys(finding.message for finding in findings)))
