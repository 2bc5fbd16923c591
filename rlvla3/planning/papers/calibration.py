"""Profiles from a few rows of the papers' tables: how long stages take, in the form that the engine rehearses with.

A step of the papers is made of five costs, and each has its place in a Profile. n is the number of environments of a rollout GPU.

    simulate, infer     a/2 + b/2 n each, once a round, a round being one chunk of every environment; so a rollout takes rounds x (a + b n)
    send, receive       c/2 each for every decision, on one channel of the whole cluster that all trajectories go through, in and out
    train               d for every decision of a rank, with all update epochs; `across` times that where the ranks are on several hosts
    step                e, whatever the number of samples
    publish             f: what a step takes beyond its rollout and actor parts

ASSUMED, and neither printed nor fitted:
- simulation and inference have equal shares of a and of b, and putting a trajectory into the channel has the same share of c as taking it out; who puts in and
  who takes out do not slow each other;
- the channel: one server for the cluster. The papers say "growing communication overhead between the increasing number of workers" (section 4.2.3) and no more;
  that it is serial and goes by trajectories is read off the rows, where the step time of 8, 16 and 32 GPUs grows by the same seconds for every trajectory;
- trajectories are put into it while rollouts go on where training overlaps them ("immediately places the trajectory into the transmission queue and proceeds",
  section 3.1), and when the rollouts are over where it does not;
- colocated stages cost what they cost on GPUs of their own: `switch` is 0, as what a colocated actor takes beyond a share of the disaggregated one is found
  again, as e, in the disaggregated rows with other numbers of GPUs.
"""

from __future__ import annotations

from rlvla3.planning.papers.rows import Row, Setup, find
from rlvla3.runtimes.virtual.costs import Profile

PAPER = "RL-VLA3 v1, arXiv 2602.05765v1"

DIGITS = 4
"""Significant digits of a calibrated cost; the tables print three to five."""

THREE_ROWS = (("colocated", 8), ("colocated", 32), ("disaggregated 2:1", 6))
FOUR_ROWS: tuple[tuple[str, int], ...] = (("colocated", 8), ("colocated", 32), ("disaggregated 1:1", 8))


def calibration_rows(model: str) -> tuple[Row, ...]:
    """The rows that a model's profile is made from."""
    if model in ("pi0", "OpenVLA-OFT"):
        return tuple(find("table3", model, placement, devices) for placement, devices in THREE_ROWS)
    devices = 16 if model == "ManiSkill pi0" else 8  # ManiSkill's disaggregated row with 8 GPUs contradicts its neighbours
    synchronous = [find("table1", model, "colocated", 8), find("table1", model, "colocated", 32), find("table1", model, "disaggregated 1:1", devices)]
    return (*synchronous, find("table1", model, "disaggregated 1:1", 8, "async training"))


def calibrate(model: str) -> Profile:
    """The profile of a model of the tables."""
    rows = calibration_rows(model)
    return _from_stage_times(rows) if len(rows) == len(THREE_ROWS) else _from_step_times(rows)


def _from_stage_times(rows: tuple[Row, ...]) -> Profile:
    """Where rollout and actor times are printed, three rows will do: six figures for six costs, and what a step takes beyond them."""
    few, many, apart = rows
    setup = few.setup
    rounds = setup.rollout_epochs * setup.decisions
    trajectory = (_of(many.rollout) - _of(few.rollout)) / (_trajectories(many) - _trajectories(few))
    narrow, wide = ((_of(row.rollout) - trajectory * _trajectories(row)) / rounds for row in (few, apart))
    b = (wide - narrow) / (_width(apart) - _width(few))
    d = (_of(apart.actor) - _of(few.actor)) / (_rank_decisions(apart) - _rank_decisions(few))
    e = _of(few.actor) - d * _rank_decisions(few)
    return _profile(
        few,
        rows,
        a=narrow - b * _width(few),
        b=b,
        c=trajectory / setup.decisions,
        d=d,
        e=e,
        f=max(apart.time - _of(apart.rollout) - _of(apart.actor), 0.0),
        across=max((_of(many.actor) - e) / (d * _rank_decisions(many)), 1.0),
    )


def _from_step_times(rows: tuple[Row, ...]) -> Profile:
    """Where throughputs alone are printed: four step times for a, b, c and d; e and f are taken for 0, `across` for 1.

    With R(n) the rollout, I the channel for the trajectories of 8 GPUs, and A the actor on one of them, of s the share of a step that is one rollout epoch:
    colocated 8: R(n) + I + A/8; colocated 32: R(n) + 4 I + A/8; disaggregated with g GPUs: R(2n) + g/8 I + A/4; its 8 with training beside the rollouts:
    R(2n) + s (A/4 + I), as the rollouts are the longer part.
    """
    few, many, apart, beside = rows
    setup = few.setup
    scale, share = apart.devices / few.devices, 1 / setup.rollout_epochs
    channel = (many.time - few.time) / (many.devices / few.devices - 1)
    actor = (apart.time - scale * channel - beside.time + share * channel) / (1 - share)  # A/4
    narrow = few.time - channel - actor / 2
    wide = apart.time - scale * channel - actor
    rounds = setup.rollout_epochs * setup.decisions
    b = (wide - narrow) / rounds / (_width(apart) - _width(few))
    trajectories = _trajectories(few)
    return _profile(
        few,
        rows,
        a=narrow / rounds - b * _width(few),
        b=b,
        c=channel / trajectories / setup.decisions,
        d=actor / _rank_decisions(beside),
        e=0.0,
        f=0.0,
        across=1.0,
    )


def _profile(row: Row, rows: tuple[Row, ...], *, a: float, b: float, c: float, d: float, e: float, f: float, across: float) -> Profile:
    """Costs as a Profile. ManiSkill simulates on the GPU, where it shares the compute with inference; LIBERO's simulators are beside it."""
    setup: Setup = row.setup
    lane = "compute" if setup.benchmark == "ManiSkill" else "simulation"
    half = [_rounded(a / 2), _rounded(a / 2 + b / 2 * row.environments)]
    sizes = [0, row.environments]
    return Profile.model_validate(
        {
            "name": profile_name(row.model),
            "source": f"{PAPER}, calibrated on {'; '.join(f'{each.placement} {each.devices} GPUs {each.strategy}' for each in rows)} of {row.table}",
            "chunk": setup.chunk,
            "episode_steps": [setup.episode_steps],
            "simulate": {"on": lane, "sizes": sizes, "seconds": half},
            "infer": {"on": "compute", "sizes": sizes, "seconds": half},
            "send": {"on": "coordinator", "seconds": [_rounded(c / 2)]},
            "receive": {"on": "nothing", "seconds": [_rounded(c / 2)]},
            "train": {"on": "compute", "seconds": [_rounded(d)]},
            "across": _rounded(across),
            "step": {"on": "compute", "seconds": [_rounded(e)]},
            "publish": {"on": "nothing", "seconds": [_rounded(f)]},
        }
    )


def profile_name(model: str) -> str:
    """Of the profile that ships with the package."""
    return {
        "pi0": "libero-pi0",
        "OpenVLA-OFT": "libero-openvla-oft",
        "pi0.5": "libero-pi05",
        "GR00T N1.5": "libero-gr00t",
        "ManiSkill pi0": "maniskill-pi0",
    }[model]


def _width(row: Row) -> float:
    """Environments of a rollout GPU."""
    return row.environments / row.parts[0]


def _trajectories(row: Row) -> int:
    """Of a step."""
    return row.environments * row.setup.rollout_epochs


def _rank_decisions(row: Row) -> float:
    """Decisions of a step that one GPU of the actor trains on."""
    return _trajectories(row) * row.setup.decisions / row.parts[1]


def _of(time: float | None) -> float:
    """A time that calibration cannot do without."""
    if time is None:
        raise ValueError("a row without rollout and actor times cannot be calibrated on")
    return time


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.{DIGITS}g}")
