"""This engine's own schedules with the papers' costs: LIBERO pi0 with training that overlaps later rollouts, disaggregated and colocated, on 8 to 256 GPUs.

The costs are the calibrated ones of libero-pi0. These are ASSUMED in addition:
- the simulators of a host are slower than the mean by up to the share STRAGGLE, which is drawn again for every episode of a shard;
- a version has WEIGHTS bytes and goes from host to host at LINK bytes per second, along a tree;
- there is no channel: in this engine a trajectory goes to the trainer without passing one process of the whole cluster, so `send` and `receive` cost nothing.
  Runs "with the channel" include these costs, like RL-VLA3's own runs;
- a GPU holds 32 environments with their simulators, as in the disaggregated 1:1 rows of the papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlvla3.config import Recipe, make_recipe
from rlvla3.planning.papers.calibration import calibrate
from rlvla3.planning.papers.rows import setups
from rlvla3.planning.rehearsal import rehearse
from rlvla3.runtimes.virtual.costs import NOTHING, HostProfile, Profile
from rlvla3.scheduling.placement import Cluster, place

STRAGGLE = 0.03
WEIGHTS = 7e9
LINK = 25e9
HOSTS = (1, 4, 32)
ENVIRONMENTS = 128
"""Environments of a host with 8 GPUs in the papers. An update has four episodes of each."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings to compare. shards: per GPU with simulators. slots: environments per shard, which is also B_max. overlaps: whether training overlaps rollouts.

    channel: whether the cost of the papers' channel is included.
    """

    name: str
    kind: str
    shards: int
    slots: int
    overlaps: bool = True
    channel: bool = False


SYNCHRONOUS = Configuration("colocated synchronous", "colocated", 1, 16, overlaps=False)
WITH_CHANNEL = Configuration("colocated synchronous, with the channel", "colocated", 1, 16, overlaps=False, channel=True)
DISAGGREGATED = Configuration("full_async, disaggregated 1:1, 2 x 16 environments a rollout GPU", "disaggregated", 2, 16)
COLOCATED = Configuration("full_async, colocated, 2 x 16 environments a GPU", "colocated", 2, 16)
CONFIGURATIONS = (
    SYNCHRONOUS,
    WITH_CHANNEL,
    DISAGGREGATED,
    Configuration("full_async, colocated, 2 x 8 environments a GPU", "colocated", 2, 8),
    COLOCATED,
    Configuration("full_async, colocated, 2 x 16 environments a GPU, with the channel", "colocated", 2, 16, channel=True),
)


@dataclass(frozen=True, slots=True)
class RehearsedConfiguration:
    """A rehearsed configuration.

    step_time: seconds. throughput: environment steps per second. bound: seconds of a step if only the longest stage took time; 0 if nothing overlaps.
    share: bound / step_time. gain: throughput relative to the colocated synchronous run without the channel on as many GPUs.
    efficiency: throughput per GPU, relative to the same configuration on 8 GPUs.
    """

    name: str
    devices: int
    step_time: float
    throughput: float
    bound: float
    share: float
    gain: float
    efficiency: float


@dataclass(frozen=True, slots=True)
class Beyond:
    """The rehearsed configurations, and notes to print below them."""

    runs: Sequence[RehearsedConfiguration]
    notes: Sequence[str]
    name: str = "beyond"

    def content(self) -> dict[str, Any]:
        """The result as plain data."""
        return {"paper": self.name, "runs": [asdict(run) for run in self.runs], "notes": list(self.notes)}


NOTES = (
    f"Assumed: stragglers of {STRAGGLE:.0%} a rollout epoch, {WEIGHTS / 1e9:.0f} GB of weights, {LINK / 1e9:.0f} GB/s between hosts, max_staleness 1.",
    "No dispatch through one process of the cluster is charged, as sampling is local to a host in this engine; runs with the channel are charged with it.",
    "Colocated against disaggregated, where costs are linear in the environments. Let simulation, inference and training of an update take S, I and T "
    "seconds on one GPU, and G be the number of GPUs. The best division reaches (max(S, I) + T) / G, if it comes out in whole GPUs. Colocated stages that "
    "overlap reach max(S, I + T) / G, which is never more: rendering and physics have a lane of their own beside the compute. So colocated wins where "
    "simulation is the longer half of a rollout, or the division is not whole, and ties elsewhere. It loses where simulators slow inference and training on "
    "their GPU, which these costs leave out, and where there is no memory for all three.",
)


def go_beyond(hosts: Sequence[int] = HOSTS, configurations: Sequence[Configuration] = CONFIGURATIONS) -> Beyond:
    """Rehearse the configurations on each number of hosts. The synchronous runs and those on 8 GPUs are always rehearsed, for comparison."""
    runs: dict[tuple[Configuration, int], RehearsedConfiguration] = {}
    for count in dict.fromkeys((1, *hosts)):
        for configuration in dict.fromkeys((SYNCHRONOUS, *configurations)):
            runs[configuration, count] = _run(configuration, count, runs)
    return Beyond([run for (configuration, count), run in runs.items() if configuration in configurations and count in hosts], NOTES)


def assumed_profile(configuration: Configuration) -> Profile:
    """The profile libero-pi0 with the assumptions of this file."""
    profile = calibrate("pi0")
    changes: dict[str, Any] = {"weights": WEIGHTS, "host": HostProfile(link=LINK, straggle=STRAGGLE)}
    return profile.model_copy(update=changes if configuration.channel else {**changes, "send": NOTHING, "receive": NOTHING})


def configuration_recipe(configuration: Configuration, hosts: int) -> Recipe:
    setup = setups()["pi0"]
    simulating = len(place(Cluster(hosts, 8), "disaggregated" if configuration.kind == "disaggregated" else "colocated").simulators)
    return make_recipe(
        {
            "simulator": {"name": "papers:LIBERO", "shards": simulating * configuration.shards, "slots": configuration.slots},
            "policy": {"name": "papers:pi0", "chunk": setup.chunk},
            "training": {"batch": hosts * ENVIRONMENTS * setup.rollout_epochs, "steps": 1, "epochs": 1, "micro_batch": setup.micro_batch},
            "engine": {
                "mode": "full_async" if configuration.overlaps else "sync",
                "max_batch": configuration.slots if configuration.overlaps else None,
                "max_wait_ms": None,
            },
            "placement": {"kind": configuration.kind},
        }
    )


def bottleneck(configuration: Configuration, hosts: int) -> float:
    """The seconds that the busiest lane of a GPU works for one update."""
    recipe, profile = configuration_recipe(configuration, hosts), assumed_profile(configuration)
    placement = place(Cluster(hosts, 8), recipe.placement.kind)
    decisions = recipe.training.batch * setups()["pi0"].decisions
    calls = decisions / configuration.slots
    simulate = calls / len(placement.simulators) * profile.simulate.work(configuration.slots) * (1 + STRAGGLE / 2)
    infer = calls / len(placement.generators) * profile.infer.work(configuration.slots)
    train = profile.train.work(decisions / len(placement.trainers)) + profile.step.work(1)
    return max(simulate, infer + train if configuration.kind == "colocated" else max(infer, train))


def _run(configuration: Configuration, hosts: int, runs: dict[tuple[Configuration, int], RehearsedConfiguration]) -> RehearsedConfiguration:
    cluster, recipe = Cluster(hosts, 8), configuration_recipe(configuration, hosts)
    warmup = 1 if configuration.overlaps else 0
    found = rehearse(recipe, assumed_profile(configuration), cluster, updates=2 if configuration.overlaps else 1, warmup=warmup)
    bound = bottleneck(configuration, hosts) if configuration.overlaps else 0.0
    baseline, small = runs.get((SYNCHRONOUS, hosts)), runs.get((configuration, 1))
    return RehearsedConfiguration(
        configuration.name,
        len(cluster),
        found.step_time,
        found.throughput,
        bound,
        bound / found.step_time,
        found.throughput / baseline.throughput if baseline else 1.0,
        found.throughput / hosts / small.throughput if small else 1.0,
    )
