"""What a check says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from rlvla3.checking.evidence import Evidence, NotApplicable

Verdict = Literal["passed", "warning", "failed", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or (a warning) that may be meant so: what was seen, what was expected, and what to do."""

    words: str
    is_failure: bool = True


def warning(words: str) -> Finding:
    return Finding(words, is_failure=False)


@dataclass(frozen=True)
class Check:
    """demand: what a simulator has to do, in a sentence. find: what is wrong, by the evidence; it raises NotApplicable where nothing can be said."""

    name: str
    demand: str
    find: Callable[[Evidence], Iterator[Finding]]


@dataclass(frozen=True)
class Result:
    """What a check came to. words: what is wrong, a text for each finding, or why the check is not applicable."""

    check: Check
    verdict: Verdict
    words: tuple[str, ...] = ()


def judge(check: Check, evidence: Evidence) -> Result:
    """Make one check."""
    try:
        findings = list(check.find(evidence))
    except NotApplicable as reason:
        return Result(check, "not applicable", (str(reason),))
    if not findings:
        return Result(check, "passed")
    failed = any(finding.is_failure for finding in findings)
    return Result(check, "failed" if failed else "warning", tuple(dict.fromkeys(finding.words for finding in findings)))
