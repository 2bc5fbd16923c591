"""What `bench fuzz` does: it runs the cases, prints a table, and says how each failure can be repeated."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from rlvla3.benchmarks.fuzz.running import LIMIT_S, Kind, Outcome, run_cases
from rlvla3.observability.figures import write_figures

LABELS: dict[Kind, str] = {
    "accepted": "accepted",
    "refused": "refused in words",
    "escaped": "escaped exception",
    "slow": f"over {LIMIT_S:g} s",
    "crashed": "crash",
}
REFUSALS = 200
"""How many refusals, with their words, are kept in the figures."""

assert set(LABELS) == set(get_args(Kind))


def main(subject: str, cases: int, seed: int, first: int, keep: Path | None, figures: Path) -> bool:
    """Run the cases `first` to `first + cases - 1`. Returns whether each was accepted, or refused in words, in time."""
    with tempfile.TemporaryDirectory(prefix="rlvla3-fuzz-") as folder:
        outcomes = list(run_cases(subject, range(first, first + cases), seed, Path(folder), keep=keep))
    for line in report(subject, seed, outcomes):
        print(line)
    counts = {kind: sum(outcome.kind == kind for outcome in outcomes) for kind in LABELS}
    failures = [outcome for outcome in outcomes if not outcome.is_good]
    refusals = [outcome for outcome in outcomes if outcome.kind == "refused"]
    shown = refusals[:: max(1, len(refusals) // REFUSALS)]
    about = {"subject": subject, "seed": seed, "first": first, "cases": cases, "slowest_s": max(outcome.seconds for outcome in outcomes)}
    write_figures(about | {"counts": counts, "failures": [*map(asdict, failures)], "refusals": [*map(asdict, shown)]}, figures)
    return not failures


def report(subject: str, seed: int, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """The table, and then the failures: those with the same error from the same place stand in one line."""
    yield f"{len(outcomes):,} {subject}, seed {seed}"
    for kind, label in LABELS.items():
        count = sum(outcome.kind == kind for outcome in outcomes)
        yield f"  {label:<18} {count:>7,}  {100 * count / len(outcomes):5.1f} %"
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    yield f"  slowest: case {slowest.number}, {slowest.seconds:.2f} s ({slowest.change})"
    alike: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if not outcome.is_good:
            alike[outcome.kind, outcome.words.partition(":")[0], outcome.place].append(outcome)
    for (how, _, place), group in sorted(alike.items(), key=lambda item: -len(item[1])):
        example = group[0]
        yield f"{how}, {len(group)} cases: {' '.join(example.words.split())}{f' at {place}' if place else ''}; case {example.number}: {example.change}"
    if alike:
        number = next(iter(alike.values()))[0].number
        yield f"one of them again: rlvla3 bench fuzz {subject} --seed {seed} --first {number} --cases 1 --keep FOLDER"
