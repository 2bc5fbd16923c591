"""The kinds of faults. Each says how it is done to a run, what its user is to read, and how the run goes on.

A fault that is done from outside hits its victim at a random moment, whatever it does or waits for. A fault that is ordered (orders.py) hits at one place of
the code: within reset, within a training pass, while weights are saved.
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Literal

import psutil

from rlvla3.benchmarks.chaos.nodes import ADD, LOSE
from rlvla3.benchmarks.chaos.observed_run import ObservedRun
from rlvla3.benchmarks.chaos.orders import CLOCK_STEP, SLOW_DISK, give, withdraw

After = Literal["goes on", "ends", "is killed", "is not read"]
"""How a run goes on: by itself; or it ends with a sentence, or is killed, and is continued; or nobody reads what it prints any more."""

SOON_S = 10.0
"""The run says who was killed or has failed within this time."""

HUNG_S = 30.0
"""The run says who is stopped or hangs within this time. The limits of the recipe are lower (settings.py)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault.

    do: does it, and returns what it has done, in words; "" where the run has nobody to do it to. told: a regular expression for the line that tells the user of
    it ("": there is nothing to tell). within_s: how soon. after: how the run goes on. settings: the settings in which it can be done (empty: in all).
    runtimes: the same. quiet: whether nobody may be taken for lost.
    """

    name: str
    do: Callable[[ObservedRun, Random], str]
    told: str = ""
    within_s: float = SOON_S
    after: After = "goes on"
    settings: Sequence[str] = ()
    runtimes: Sequence[str] = ("local", "ray")
    quiet: bool = False


def _send(role: str, number: signal.Signals, run: ObservedRun, random: Random) -> str:
    """Send a signal to a worker of a role."""
    workers = run.workers(role)
    if not workers:
        return ""
    name = random.choice(list(workers))
    with suppress(psutil.NoSuchProcess):
        workers[name].send_signal(number)
    return f"{name} got {number.name}"


def _send_rank(run: ObservedRun, random: Random) -> str:
    """Kill a rank that is not the first one."""
    if (rank := run.workers("trainer").get("trainer 1")) is None:
        return ""
    rank.kill()
    return "trainer 1 got SIGKILL"


def _order(place: str, what: str, run: ObservedRun, random: Random) -> str:
    """Order the first who comes to a place to do something."""
    give(run.orders, place, what)
    return f"{what} in {place}"


def _order_replacement(place: str, what: str, role: str, run: ObservedRun, random: Random) -> str:
    """Kill a worker, so that its replacement comes to a place."""
    give(run.orders, place, what)
    return f"{_send(role, signal.SIGKILL, run, random)}, and its replacement is to {what} in {place}"


def _kill_all(run: ObservedRun, random: Random) -> str:
    run.kill_all()
    return "every process got SIGKILL"


def _kill_coordinator(run: ObservedRun, random: Random) -> str:
    run.send(signal.SIGKILL)
    return "the coordinator got SIGKILL"


def _hold_up_then_kill(run: ObservedRun, random: Random) -> str:
    """The trainer goes on while the coordinator cannot write what it hears of. Then all is lost."""
    run.send(signal.SIGSTOP)
    time.sleep(2.5)
    run.kill_all()
    return "the coordinator was stopped for 2.5 s, then every process got SIGKILL"


def _stop_all(run: ObservedRun, random: Random) -> str:
    """As Ctrl-Z and fg, or a laptop that sleeps."""
    processes = run.processes()
    for number, seconds in ((signal.SIGSTOP, random.uniform(1.0, 8.0)), (signal.SIGCONT, 0.0)):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        time.sleep(seconds)
    return "every process was stopped for a while"


def _signal_coordinator(number: signal.Signals, run: ObservedRun, random: Random) -> str:
    run.send(number)
    return f"the coordinator got {number.name}"


def _fill_disk(run: ObservedRun, random: Random) -> str:
    """No process of the run can write a byte to a file, for three seconds."""
    limited = run.processes()
    for lifted in (False, True):
        for process in limited:
            with suppress(ProcessLookupError):
                _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard if lifted else 0, hard))
        time.sleep(0.0 if lifted else 3.0)
    return "nobody could write to a file for 3 s"


def _stay(order: str, amounts: Sequence[str], run: ObservedRun, random: Random) -> str:
    """Give an order that stays for three seconds."""
    amount = random.choice(amounts)
    give(run.orders, order, amount)
    time.sleep(3.0)
    withdraw(run.orders, order)
    return f"{order} of {amount} s, for 3 s"


def _lose_node(run: ObservedRun, random: Random) -> str:
    """A node is gone with all that ran on it, and another one comes a little later."""
    if run.cluster is None:
        return ""
    run.cluster.tell(LOSE)
    time.sleep(random.uniform(0.0, 3.0))
    run.cluster.tell(ADD)
    return "a node was lost, and another one came"


def _hang_up(run: ObservedRun, random: Random) -> str:
    run.hang_up()
    return "who read what it prints has gone"


_SAID = "(was lost|has taken|is stopped|not answered|not been heard)"
SHARD, GENERATOR, TRAINER = rf"(shard|host) \d+.* {_SAID}", rf"(generator|host) \d+.* {_SAID}", rf"trainer.* {_SAID}"
"""What the line that tells of a lost or a late worker says. On Ray, the host of a generator is lost with it."""

_ALL = (
    Fault("kill-shard", partial(_send, "shard", signal.SIGKILL), SHARD),
    Fault("stop-shard", partial(_send, "shard", signal.SIGSTOP), SHARD, HUNG_S),
    Fault("shard-killed-in-reset", partial(_order, "reset", "kill"), SHARD),
    Fault("shard-killed-in-step", partial(_order, "step", "kill"), SHARD),
    Fault("shard-hangs-in-reset", partial(_order, "reset", "hang"), SHARD, HUNG_S),
    Fault("shard-hangs-in-step", partial(_order, "step", "hang"), SHARD, HUNG_S),
    Fault("shard-hangs-in-build", partial(_order_replacement, "build", "hang", "shard"), "built|to build", HUNG_S),
    Fault("shard-raises-in-step", partial(_order, "step", "raise"), SHARD),
    Fault("shard-exits-in-step", partial(_order, "step", "exit"), SHARD),
    Fault("nan-of-simulator", partial(_order, "step", "nan"), r"(?i)\bnan\b"),
    Fault("kill-generator", partial(_send, "generator", signal.SIGKILL), GENERATOR),
    Fault("stop-generator", partial(_send, "generator", signal.SIGSTOP), GENERATOR, HUNG_S),
    Fault("generator-killed-in-act", partial(_order, "act", "kill"), GENERATOR),
    Fault("generator-hangs-in-act", partial(_order, "act", "hang"), GENERATOR, HUNG_S),
    Fault("nan-of-policy", partial(_order, "act", "nan"), r"(?i)\bnan\b", after="ends"),
    Fault("kill-trainer", partial(_send, "trainer", signal.SIGKILL), TRAINER),
    Fault("stop-trainer", partial(_send, "trainer", signal.SIGSTOP), TRAINER, HUNG_S),
    Fault("kill-rank", _send_rank, TRAINER, settings=("ranks",)),
    Fault("trainer-killed-in-pass", partial(_order, "evaluate", "kill"), TRAINER),
    Fault("trainer-hangs-in-pass", partial(_order, "evaluate", "hang"), TRAINER, HUNG_S),
    Fault("trainer-killed-in-save", partial(_order, "save", "kill"), TRAINER),
    Fault("kill-host", partial(_send, "host", signal.SIGKILL), r"host \d+", HUNG_S, runtimes=("ray",)),
    Fault("stop-host", partial(_send, "host", signal.SIGSTOP), r"host \d+", HUNG_S, runtimes=("ray",)),
    Fault("lost-node", _lose_node, r"host \d+", HUNG_S, runtimes=("ray",)),
    Fault("kill-all", _kill_all, after="is killed"),
    Fault("kill-coordinator", _kill_coordinator, after="is killed"),
    Fault("hold-up-then-kill", _hold_up_then_kill, after="is killed", settings=("slow trainer",)),
    Fault("stop-all", _stop_all, quiet=True, runtimes=("local",)),
    Fault("interrupt", partial(_signal_coordinator, signal.SIGINT), "interrupt", after="ends"),
    Fault("terminate", partial(_signal_coordinator, signal.SIGTERM), "interrupt|SIGTERM", after="ends"),
    Fault("hang-up-terminal", partial(_signal_coordinator, signal.SIGHUP), "interrupt|SIGHUP", after="ends"),
    Fault("warn", partial(_signal_coordinator, signal.SIGUSR1), "checkpoint"),
    Fault("disk-full", _fill_disk, "disk|space|written|File too large|write", runtimes=("local",)),
    Fault("broken-pipe", _hang_up, after="is not read"),
    Fault("slow-disk", partial(_stay, SLOW_DISK, ("0.5", "2.0")), quiet=True),
    Fault("clock-step", partial(_stay, CLOCK_STEP, ("-86400", "-5", "5", "86400")), quiet=True),
)

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _ALL}
