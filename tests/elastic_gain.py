"""What elastic generators gain on the virtual clock: `python -m tests.elastic_gain` makes the table of docs/planning.md."""

from __future__ import annotations

from dataclasses import dataclass

from rlvla3.config import Recipe, make_recipe
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.runtimes.virtual.faults import Fault
from rlvla3.runtimes.virtual.runtime import VirtualRuntime
from rlvla3.scheduling.placement import Cluster, place

MOST, SHARDS = 4, 32
SETTLING, UPDATES = 120, 240
"""Updates before those that are measured, and all; a look is some 4 updates long."""

EVERY_S = 10.0
SLOWER = 20.0
"""How many times longer simulators take in the second part of a run whose load changes."""


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


def recipe(generators: int, elastic: bool, shards: int = SHARDS, updates: int = UPDATES) -> Recipe:
    engine = {"max_batch": 0, "generators": generators, "elastic": {"least": 1, "every_s": EVERY_S} if elastic else None}
    return make_recipe(
        {
            "simulator": {"name": "virtual:Simulator", "shards": shards},
            "policy": {"chunk": 5},
            "training": {"updates": updates, "batch": 64, "steps": 1, "epochs": 1, "micro_batch": 64},
            "engine": engine,
        }
    )


def measure(chosen: Recipe, profile: Profile, faults: tuple[Fault, ...] = (), parts: tuple[range, ...] = (range(SETTLING, UPDATES),)) -> list[Measured]:
    """The pace of some parts of a run, each a range of updates, and how many generators were active at the end of each."""
    generators = chosen.engine.generators
    runtime = VirtualRuntime(chosen, profile, place(Cluster(1, generators + 2), "separate", (1, generators, 1)), faults=faults)
    ends, steps, active = [0.0], [0], [runtime.assignment.active]
    for published in runtime.train():
        ends.append(published.at)
        steps.append(runtime.steps)
        active.append(runtime.assignment.active)
    return [Measured((steps[part.stop] - steps[part.start]) / (ends[part.stop] - ends[part.start]), active[part.stop]) for part in parts]


def all_slow(at: float) -> tuple[Fault, ...]:
    """Every simulator is slow from some second on."""
    return tuple(Fault(at, "shard is slow", which, SLOWER) for which in range(SHARDS))


def main() -> None:
    for label, profile, shards in [
        ("2 cores, 32 shards", shared_cores(2), 32),
        ("4 cores, 32 shards", shared_cores(4), 32),
        ("8 cores, 32 shards", shared_cores(8), 32),
        ("8 cores, 4 shards", shared_cores(8), 4),
    ]:
        fixed = [measure(recipe(n, False, shards), profile)[0].pace for n in range(1, MOST + 1)]
        found = measure(recipe(MOST, True, shards), profile)[0]
        print(f"{label}: {', '.join(f'{pace:.0f}' for pace in fixed)}; elastic {found.pace:.0f} with {found.active}")
    profile, parts = shared_cores(8), (range(60, 120), range(180, UPDATES))
    at = 150.0
    for n in [1, 2, 3, 4]:
        print(n, [f"{part.pace:.0f}" for part in measure(recipe(n, False), profile, all_slow(at), parts)])
    print("elastic", [f"{part.pace:.0f} with {part.active}" for part in measure(recipe(MOST, True), profile, all_slow(at), parts)])


if __name__ == "__main__":
    main()
