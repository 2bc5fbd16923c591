"""A round: one run suffers several faults, one after another, and is then interrupted. After each fault, and at the end, it is checked.

A round depends on the seed and on its number only, so that everyone can repeat it. What is left to chance is when a fault hits what.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rlvla3.benchmarks.chaos.accounts import other_weights, wrong_accounts
from rlvla3.benchmarks.chaos.faults import FAULTS, Fault
from rlvla3.benchmarks.chaos.leftovers import leftovers, shared_blocks
from rlvla3.benchmarks.chaos.observed_run import Cluster, ObservedRun
from rlvla3.benchmarks.chaos.orders import withdraw
from rlvla3.benchmarks.chaos.settings import SETTINGS, recipe
from rlvla3.observability.run_directory import version_of

START_S = 300.0
"""How long a run may take from its start to its next update."""

END_S = 120.0
"""How long a run may take to end."""

BACK_S = 180.0
"""How long it may take until the run makes updates again."""

FAULTS_OF_ROUND = 8

UNREAD_S = 5.0
"""How long a run goes on whose output nobody reads."""

LOST = r"was lost|did not answer|was killed"


@dataclass
class Outcome:
    """What came of one fault. did: what was done to whom. told_s: seconds until the user was told (None: was not). back_s: seconds until the next update.
    ended: whether the run had to be continued. wrong: what is not as it should be."""

    kind: str
    did: str = ""
    told_s: float | None = None
    back_s: float | None = None
    ended: bool = False
    wrong: list[str] = field(default_factory=list)


@dataclass
class RoundOutcome:
    """What came of a round. wrong: what was not as it should be at its end."""

    number: int
    setting: str
    runtime: str
    faults: list[Outcome] = field(default_factory=list)
    updates: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def faults_of(seed: int, number: int, runtime: str, only: Sequence[str] = ()) -> tuple[str, list[Fault]]:
    """The setting of a round, and its faults. Over the rounds of a setting, each kind that it has comes equally often."""
    has = {setting: [fault for fault in FAULTS.values() if _has(fault, setting, runtime, only)] for setting in SETTINGS}
    settings = [setting for setting in SETTINGS if has[setting]]
    setting = settings[number % len(settings)]
    visit, kinds = number // len(settings), has[setting]
    endless = (fault for turn in range(number + 2) for fault in Random(f"{seed} {setting} {turn}").sample(kinds, len(kinds)))
    first = visit * FAULTS_OF_ROUND
    return setting, [fault for at, fault in zip(range(first + FAULTS_OF_ROUND), endless, strict=False) if at >= first]


def _has(fault: Fault, setting: str, runtime: str, only: Sequence[str]) -> bool:
    return runtime in fault.runtimes and (not fault.settings or setting in fault.settings) and (not only or fault.name in only)


class Round:
    """Makes round `number`. folder: an empty folder for it. only: the kinds of faults (empty: all). cluster: of Ray (None: the local runtime)."""

    def __init__(self, seed: int, number: int, folder: Path, only: Sequence[str] = (), cluster: Cluster | None = None) -> None:
        runtime = "local" if cluster is None else "ray"
        self._setting, self._faults = faults_of(seed, number, runtime, only)
        self._random, self._folder, self._is_local = Random(f"{seed} {number}"), folder, cluster is None
        self._blocks = shared_blocks()
        settings = recipe(self._setting, ray_address=cluster.address if cluster else None)
        self._run = ObservedRun(folder / "disturbed", f"{seed}-{number}-{time.monotonic_ns()}", settings, cluster)
        self.outcome = RoundOutcome(number, self._setting, runtime)

    def make(self, most: int, end: float) -> Iterator[Outcome]:
        """Do at most so many faults, none after `end`, and yield what came of each. Afterwards, end the run and check it. end: on the monotonic clock."""
        began = time.monotonic()
        try:
            self._start(self.outcome.wrong)
            for fault in self._faults[:most]:
                if self.outcome.wrong or time.monotonic() > end:
                    break
                self.outcome.faults.append(self._suffer(fault))
                yield self.outcome.faults[-1]
            if not self.outcome.wrong:
                self._end()
        finally:
            self._run.kill_all()
            self.outcome.seconds = time.monotonic() - began

    def _start(self, wrong: list[str]) -> None:
        """Start or continue the run, and wait until it makes updates."""
        run, since = self._run, len(self._run.lines)
        before = run.updates
        run.start()
        run.wait_for(lambda: not run.alive or (len(run.lines) > since and run.updates != before and run.said(r"\] update ", since)), START_S)
        if not run.alive or not run.said(r"\] update ", since):
            wrong.append(f"the run made no update within {START_S:g} s of its start: {self._last_words(since)}")

    def _suffer(self, fault: Fault) -> Outcome:
        """Do one fault, see how the run takes it, and continue the run if it has ended."""
        run, outcome = self._run, Outcome(fault.name)
        since, updates = len(run.lines), run.updates
        run.wait_for(lambda: not run.alive or run.updates > updates + 1, BACK_S)
        time.sleep(self._random.uniform(0.0, 1.0))  # the moment is random
        since, began = len(run.lines), time.monotonic()
        outcome.did = fault.do(run, self._random)
        if not outcome.did:
            outcome.wrong.append("there was nobody to do it to")
        if fault.told:
            self._hear(fault, outcome, since, began)
        match fault.after:
            case "goes on":
                self._go_on(outcome, since, began)
            case "ends" | "is killed":
                if not run.wait(END_S):
                    outcome.wrong.append(f"the run did not end within {END_S:g} s: {self._last_words(since)}")
                    run.kill_all()
            case "is not read":
                self._go_on_unread(outcome, updates)
        self._check(fault, outcome, since)
        if not run.alive:
            self._continue(outcome)
        return outcome

    def _hear(self, fault: Fault, outcome: Outcome, since: int, began: float) -> None:
        run = self._run
        run.wait_for(lambda: run.said(fault.told, since) or not run.alive, fault.within_s)
        if line := run.said(fault.told, since):
            outcome.told_s = line.at - began
        else:
            outcome.wrong.append(f"the user was not told within {fault.within_s:g} s: {self._last_words(since)}")

    def _go_on(self, outcome: Outcome, since: int, began: float) -> None:
        """The run makes two more updates by itself: the first one may have been under way."""
        run = self._run

        def updates_since() -> int:
            return sum("] update " in line.text for line in run.lines[since:])

        heard = updates_since()
        run.wait_for(lambda: updates_since() >= heard + 2 or not run.alive, BACK_S)
        if not run.alive:
            outcome.wrong.append(f"the run ended with status {run.status}: {self._last_words(since)}")
        elif updates_since() < heard + 2:
            outcome.wrong.append(f"the run made no updates within {BACK_S:g} s: {self._last_words(since)}")
            run.kill_all()
        else:
            outcome.back_s = time.monotonic() - began

    def _go_on_unread(self, outcome: Outcome, updates: int) -> None:
        run = self._run
        run.wait(UNREAD_S)
        run.send(signal.SIGINT)
        if not run.wait(END_S):
            outcome.wrong.append(f"the run did not end within {END_S:g} s of an interrupt")
            run.kill_all()
        if not (ended := run.summary["ended"]).startswith("interrupted"):
            outcome.wrong.append(f"the run ended by itself before it was interrupted: {ended}")
        checkpoint = run.directory.latest_checkpoint()
        if checkpoint is None or version_of(checkpoint) <= updates:
            outcome.wrong.append(f"no checkpoint after update {updates} was kept")

    def _check(self, fault: Fault, outcome: Outcome, since: int) -> None:
        run = self._run
        if run.said("Traceback", since):
            outcome.wrong.append(f"the user saw a traceback: {self._last_words(since)}")
        if fault.quiet and (line := run.said(LOST, since)):
            outcome.wrong.append(f"somebody was taken for lost: {line.text}")
        for order in ("build", "reset", "step", "act", "evaluate", "save"):
            if withdraw(run.orders, order):
                outcome.wrong.append(f"nobody came to {order}")
        if fault.after == "ends" and not run.alive and run.status <= 0:
            outcome.wrong.append(f"the run ended with status {run.status}: {self._last_words(since)}")

    def _continue(self, outcome: Outcome) -> None:
        """Look for what the run has left, and continue it."""
        outcome.ended = True
        outcome.wrong += leftovers(self._run, self._blocks, graceful=self._run.status >= 0)
        self._start(outcome.wrong)

    def _end(self) -> None:
        """Interrupt the run, and check its accounts and its weights."""
        run, wrong = self._run, self.outcome.wrong
        run.send(signal.SIGINT)
        if not run.wait(END_S):
            wrong.append(f"the run did not end within {END_S:g} s of an interrupt")
            return
        wrong += leftovers(run, self._blocks, graceful=True) + wrong_accounts(run)
        checkpoint = run.directory.latest_checkpoint()
        self.outcome.updates = version_of(checkpoint) if checkpoint else 0
        if self._setting == "sync" and self._is_local and checkpoint:
            self._compare(version_of(checkpoint))

    def _compare(self, updates: int) -> None:
        """Make the same updates in a run that nothing disturbs, and compare the weights."""
        undisturbed = ObservedRun(self._folder / "undisturbed", f"undisturbed-{time.monotonic_ns()}", recipe(self._setting, updates))
        try:
            undisturbed.start()
            if not undisturbed.wait(START_S + updates) or undisturbed.status != 0:
                self.outcome.wrong.append("the undisturbed run did not finish")
            else:
                self.outcome.wrong += other_weights(self._run, undisturbed)
        finally:
            undisturbed.kill_all()

    def _last_words(self, since: int) -> str:
        said = [line.text for line in self._run.lines[since:] if "] update " not in line.text]
        return " / ".join(said[-3:]) or "it said nothing"
