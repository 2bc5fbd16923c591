"""What `bench chaos` does: it makes rounds until the time or the faults are used up, prints a line for each fault and then a table, and says how to
repeat what failed."""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import count
from pathlib import Path
from statistics import median
from typing import Literal

from rlvla3.benchmarks.chaos.faults import FAULTS
from rlvla3.benchmarks.chaos.nodes import two_nodes
from rlvla3.benchmarks.chaos.observed_run import Cluster
from rlvla3.benchmarks.chaos.rounds import FAULTS_OF_ROUND, Outcome, Round, RoundOutcome
from rlvla3.errors import RecipeError
from rlvla3.observability.figures import write_figures

Runtimes = Literal["local", "ray", "both"]


def main(minutes: float, faults: int | None, seed: int, first: int, runtimes: Runtimes, only: Sequence[str], figures: Path) -> bool:
    """Do faults for so many minutes, or so many of them. first: the number of the first round. only: the kinds of faults (empty: all).

    Returns whether nothing was wrong. Raises RecipeError for a kind that there is not, and where Ray is asked for and cannot be started.
    """
    if unknown := [kind for kind in only if kind not in FAULTS]:
        raise RecipeError(f"--only {unknown[0]} is no kind of fault: write some of {', '.join(FAULTS)}")
    end, rounds = time.monotonic() + 60 * minutes, list[RoundOutcome]()
    with tempfile.TemporaryDirectory(prefix="rlvla3-chaos-", ignore_cleanup_errors=True) as scratch, ExitStack() as stack:
        clusters: list[Cluster | None] = [None] if runtimes in ("local", "both") else []
        if runtimes in ("ray", "both"):
            clusters.append(stack.enter_context(two_nodes(Path(scratch) / "nodes", f"nodes-{os.getpid()}")))
        for number in count(first):
            most = faults - _count(rounds) if faults is not None else FAULTS_OF_ROUND
            if time.monotonic() > end or most <= 0:
                break
            made = Round(seed, number // len(clusters), Path(scratch) / str(number), only, clusters[number % len(clusters)])
            rounds.append(_watched(made, end, most))
    for line in report(rounds, seed):
        print(line)
    write_figures({"seed": seed, "first": first, "rounds": [asdict(outcome) for outcome in rounds]}, figures)
    return not any(outcome.wrong or any(fault.wrong for fault in outcome.faults) for outcome in rounds)


def _watched(made: Round, end: float, most: int) -> RoundOutcome:
    """Make a round, and print what comes of each fault. After `end` it does no new fault."""
    print(f"round {made.outcome.number}: {made.outcome.setting}, {made.outcome.runtime}", flush=True)
    for outcome in made.make(most, end):
        print(f"  {_line(outcome)}", flush=True)
    for wrong in made.outcome.wrong:
        print(f"  at the end WRONG: {wrong}", flush=True)
    print(f"  {made.outcome.updates} updates, {made.outcome.seconds:.0f} s", flush=True)
    return made.outcome


def report(rounds: Sequence[RoundOutcome], seed: int) -> Iterator[str]:
    """The table by kinds, then what was wrong, and how to repeat it."""
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for made in rounds:
        for outcome in made.faults:
            kinds[outcome.kind].append(outcome)
    total = [outcome for outcomes in kinds.values() for outcome in outcomes]
    yield f"{len(total)} faults of {len(kinds)} kinds in {len(rounds)} rounds, seed {seed}"
    yield f"  {'kind':<24} {'tried':>5} {'well':>5} {'ended':>6} {'told after':>18} {'back after':>18}"
    for kind, outcomes in sorted(kinds.items()):
        well, ended = sum(not outcome.wrong for outcome in outcomes), sum(outcome.ended for outcome in outcomes)
        yield f"  {kind:<24} {len(outcomes):>5} {well:>5} {ended:>6} {_times([o.told_s for o in outcomes])} {_times([o.back_s for o in outcomes])}"
    wrong = [(made, f"{outcome.kind}: {words}") for made in rounds for outcome in made.faults for words in outcome.wrong]
    wrong += [(made, f"at the end: {words}") for made in rounds for words in made.wrong]
    yield f"{len(wrong)} wrong"
    for made, words in wrong:
        yield f"  round {made.number}, {made.setting}: {words}"
    if wrong:
        made = wrong[0][0]
        yield f"one of them again: rlvla3 bench chaos --runtime {made.runtime} --seed {seed} --first {made.number} --faults {max(len(made.faults), 1)}"


def _times(seconds: Sequence[float | None]) -> str:
    """The median and the largest of some times, in 18 letters."""
    known = [second for second in seconds if second is not None]
    return f"{median(known):>6.1f} to {max(known):>6.1f} s" if known else " " * 18


def _line(outcome: Outcome) -> str:
    told = f", told after {outcome.told_s:.1f} s" if outcome.told_s is not None else ""
    back = f", back after {outcome.back_s:.1f} s" if outcome.back_s is not None else ""
    ended = ", continued" if outcome.ended else ""
    wrong = "".join(f"\n    WRONG: {words[:400]}" for words in outcome.wrong)
    return f"{outcome.kind}: {outcome.did}{told}{back}{ended}{wrong}"


def _count(rounds: Sequence[RoundOutcome]) -> int:
    return sum(len(outcome.faults) for outcome in rounds)
