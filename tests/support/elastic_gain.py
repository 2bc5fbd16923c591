"""What elastic generators gain on the virtual clock: `python -m tests.support.elastic_gain` makes the table of docs/planning.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlvla3.config import Recipe, make_recipe
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.runtimes.virtual.faults import Fault
from rlvla3.runtimes.virtual.runtime import VirtualRuntime
from rlvla3.scheduling.placement import Cluster, place

MOST, SHARDS, EVERY_S = 4, 32, 10.0

SETTLED = (100.0, 200.0)
"""Seconds of the run that are measured: a look is taken some 10 times before."""

SLOW = (200.0, 1000.0)
"""Seconds between which every simulator takes SLOWER times as long, in the run whose load changes, and what is measured of it: before, meanwhile and after."""

SLOWER = 20.0
BEFORE_MEANWHILE_AFTER = ((100.0, 200.0), (600.0, 1000.0), (1100.0, 1200.0))


@dataclass(frozen=True, slots=True)
class Measured:
    """pace: environment steps a second. active: generators at the end."""

    pace: float
    active: int


def shared_cores(cores: int) -> Profile:
    """Simulators that sleep, and inference and training on the cores of one host. A batch of b decisions takes 10 + 2.5 b ms on one core."""
    return Profile.model_validate(
        {
            "name": "shared cores",
            "source": "made up",
            "chunk": 5,
            "episode_steps": [50, 75, 100],
            "simulate": {"on": "nothing", "seconds": [0.05], "spread": [0.8, 1.0, 1.2]},
            "infer": {"on": "cores", "sizes": [0, 8], "seconds": [0.01, 0.03]},
            "train": {"on": "cores", "seconds": [0.001]},
            "host": {"cores": list(range(1, cores + 1))},
        }
    )


def recipe(generators: int, elastic: bool, shards: int = SHARDS) -> Recipe:
    return make_recipe(
        {
            "simulator": {"name": "virtual:Simulator", "shards": shards},
            "policy": {"chunk": 5},
            "training": {"updates": 10_000, "batch": 64, "steps": 1, "epochs": 1, "micro_batch": 64},
            "engine": {"max_batch": None, "generators": generators} | ({"elastic": {"least": 1, "every_s": EVERY_S}} if elastic else {}),
        }
    )


def measure(chosen: Recipe, profile: Profile, parts: Sequence[tuple[float, float]] = (SETTLED,), faults: Sequence[Fault] = ()) -> list[Measured]:
    """The pace in parts of a run, each from one second to another and cut to whole updates."""
    generators = chosen.engine.generators
    runtime = VirtualRuntime(chosen, profile, place(Cluster(1, generators + 2), "separate", (1, generators, 1)), faults=faults)
    seen = [(0.0, 0, runtime.assignment.active)]
    for published in runtime.train():
        seen.append((published.at, runtime.steps, runtime.assignment.active))
        if published.at >= parts[-1][1]:
            break
    measured = []
    for begin, end in parts:
        within = [moment for moment in seen if begin <= moment[0] <= end]
        (since, before, _), (until, after, active) = within[0], within[-1]
        measured.append(Measured((after - before) / (until - since), active))
    return measured


def slow_for_a_while() -> list[Fault]:
    """Every simulator is slow from SLOW[0] to SLOW[1]."""
    return [Fault(at, "shard is slow", shard, how) for at, how in zip(SLOW, (SLOWER, 1.0), strict=True) for shard in range(SHARDS)]


def main() -> None:
    numbers = range(1, MOST + 1)
    print(f"environment steps a second with {', '.join(map(str, numbers))} generators, and elastic from 1 to {MOST}")
    for cores, shards in [(2, 32), (4, 32), (8, 32), (8, 4)]:
        profile = shared_cores(cores)
        fixed = [measure(recipe(number, False, shards), profile)[0].pace for number in numbers]
        (found,) = measure(recipe(MOST, True, shards), profile)
        print(f"{cores} cores, {shards} shards: {', '.join(f'{pace:.0f}' for pace in fixed)}; elastic {found.pace:.0f} with {found.active}", flush=True)
    print("4 cores, 32 shards, before, while and after simulators are slow")
    for number in numbers:
        paces = measure(recipe(number, False), shared_cores(4), BEFORE_MEANWHILE_AFTER, slow_for_a_while())
        print(f"{number}: {', '.join(f'{part.pace:.0f}' for part in paces)}", flush=True)
    found_parts = measure(recipe(MOST, True), shared_cores(4), BEFORE_MEANWHILE_AFTER, slow_for_a_while())
    print(f"elastic: {', '.join(f'{part.pace:.0f} with {part.active}' for part in found_parts)}")


if __name__ == "__main__":
    main()
