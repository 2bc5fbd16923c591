"""What this engine makes of the papers' costs: LIBERO pi0 with training beside the rollouts across steps, disaggregated and colocated, on 8 to 256 GPUs.

Costs are the calibrated ones of libero-pi0, with these ASSUMED in addition:
- the simulators of a host are slower than the mean by up to STRAGGLE, drawn anew for every episode of a shard;
- a version weighs WEIGHTS bytes and goes from host to host at LINK bytes a second, along a tree;
- no channel: in this engine a trajectory goes to the trainer without passing one process of the whole cluster, so `send` and `receive` are not charged. Runs
  that say "with the channel" are charged with them, as RL-VLA3's own are;
- a GPU holds 32 environments with their simulators, as the disaggregated 1:1 rows of the papers do.
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
"""Of a host of 8 in the papers; an update is four episodes of each."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings to compare. shards: of a simulating GPU. slots: environments of a shard, and B_max."""

    name: str
    kind: str
    shards: int
    slots: int
    overlaps: bool = True
    channel: bool = False


SYNCHRONOUS = Plan("colocated synchronous", "colocated", 1, 16, overlaps=False)
WITH_CHANNEL = Plan("colocated synchronous, with the channel", "colocated", 1, 16, overlaps=False, channel=True)
DISAGGREGATED = Plan("full_async, disaggregated 1:1, 2 x 16 environments a rollout GPU", "disaggregated", 2, 16)
COLOCATED = Plan("full_async, colocated, 2 x 16 environments a GPU", "colocated", 2, 16)
PLANS = (
    SYNCHRONOUS,
    WITH_CHANNEL,
    DISAGGREGATED,
    Plan("full_async, colocated, 2 x 8 environments a GPU", "colocated", 2, 8),
    COLOCATED,
    Plan("full_async, colocated, 2 x 16 environments a GPU, with the channel", "colocated", 2, 16, channel=True),
)


@dataclass(frozen=True, slots=True)
class Run:
    """A rehearsed plan. step_time: seconds. throughput: environment steps a second. bound: seconds of a step if the stage that takes longest were all there is,
    0 where nothing overlaps. share: of that bound that is reached. gain: throughput in multiples of the colocated synchronous run's on as many GPUs, without
    channel. efficiency: throughput of a GPU, relative to the same plan on 8."""

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
    runs: Sequence[Run]
    notes: Sequence[str]
    name: str = "beyond"

    def content(self) -> dict[str, Any]:
        """As plain data."""
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


def go_beyond(hosts: Sequence[int] = HOSTS, plans: Sequence[Plan] = PLANS) -> Beyond:
    """Rehearse the plans; those of the synchronous runs and of 8 GPUs that others are measured by are always among them."""
    runs: dict[tuple[Plan, int], Run] = {}
    for count in dict.fromkeys((1, *hosts)):
        for plan in dict.fromkeys((SYNCHRONOUS, *plans)):
            runs[plan, count] = _run(plan, count, runs)
    return Beyond([run for (plan, count), run in runs.items() if plan in plans and count in hosts], NOTES)


def profile_of(plan: Plan) -> Profile:
    """libero-pi0 as assumed here."""
    profile = calibrate("pi0")
    changes: dict[str, Any] = {"weights": WEIGHTS, "host": HostProfile(link=LINK, straggle=STRAGGLE)}
    return profile.model_copy(update=changes if plan.channel else {**changes, "send": NOTHING, "receive": NOTHING})


def recipe_of(plan: Plan, hosts: int) -> Recipe:
    setup = setups()["pi0"]
    simulating = len(place(Cluster(hosts, 8), "disaggregated" if plan.kind == "disaggregated" else "colocated").simulators)
    return make_recipe(
        {
            "simulator": {"name": "papers:LIBERO", "shards": simulating * plan.shards, "slots": plan.slots},
            "policy": {"name": "papers:pi0", "chunk": setup.chunk},
            "training": {"batch": hosts * ENVIRONMENTS * setup.rollout_epochs, "steps": 1, "epochs": 1, "micro_batch": setup.micro_batch},
            "engine": {
                "mode": "full_async" if plan.overlaps else "sync",
                "max_batch": plan.slots if plan.overlaps else 0,
                "max_wait_ms": None,
            },
            "placement": {"kind": plan.kind},
        }
    )


def bottleneck(plan: Plan, hosts: int) -> float:
    """Seconds that the busiest lane of a GPU works for one update."""
    recipe, profile = recipe_of(plan, hosts), profile_of(plan)
    placement = place(Cluster(hosts, 8), recipe.placement.kind)
    decisions = recipe.training.batch * setups()["pi0"].decisions
    calls = decisions / plan.slots
    simulate = calls / len(placement.simulators) * profile.simulate.work(plan.slots) * (1 + STRAGGLE / 2)
    infer = calls / len(placement.generators) * profile.infer.work(plan.slots)
    train = profile.train.work(decisions / len(placement.trainers)) + profile.step.work(1)
    return max(simulate, infer + train if plan.kind == "colocated" else max(infer, train))


def _run(plan: Plan, hosts: int, runs: dict[tuple[Plan, int], Run]) -> Run:
    cluster, recipe = Cluster(hosts, 8), recipe_of(plan, hosts)
    warmup = 1 if plan.overlaps else 0
    found = rehearse(recipe, profile_of(plan), cluster, updates=2 if plan.overlaps else 1, warmup=warmup)
    bound = bottleneck(plan, hosts) if plan.overlaps else 0.0
    baseline, small = runs.get((SYNCHRONOUS, hosts)), runs.get((plan, 1))
    return Run(
        plan.name,
        len(cluster),
        found.step_time,
        found.throughput,
        bound,
        bound / found.step_time,
        found.throughput / baseline.throughput if baseline else 1.0,
        found.throughput / hosts / small.throughput if small else 1.0,
    )
