"""Profiles from a few rows of the papers' tables.

A step of the papers is modelled with the costs a to f, each of which becomes a cost of a Profile. n is the number of environments of a rollout GPU.

    simulate, infer     a/2 + b/2 n each, once per round. A round is one chunk of every environment, so a rollout takes rounds x (a + b n).
    send, receive       c/2 each for every decision, on one channel of the whole cluster. All trajectories go into it and out of it.
    train               d for every decision of a rank, with all update epochs; `across` times as much if the ranks are on several hosts
    step                e, for any number of samples
    publish             f: the time of a step beyond its rollout and actor parts

ASSUMED, neither printed nor fitted:
- Simulation and inference have equal shares of a and of b. Sending into the channel and receiving from it have equal shares of c, and do not slow each other.
- The channel is one server for the cluster. The papers only say "growing communication overhead between the increasing number of workers" (section 4.2.3).
  The rows show that it is serial and that its cost is per trajectory: from 8 to 16 and 32 GPUs, the step time grows by the same seconds per trajectory.
- If training overlaps rollouts, trajectories are sent during the rollouts ("immediately places the trajectory into the transmission queue and proceeds",
  section 3.1). Otherwise they are sent after the rollouts.
- Colocated stages cost as much as on GPUs of their own, so `switch` is 0. A colocated actor takes longer than its share of the disaggregated one, but the
  disaggregated rows with other numbers of GPUs show the same difference, so it is the cost e.
"""

from __future__ import annotations

from rlvla3.planning.papers.rows import PaperSetup, Row, find
from rlvla3.runtimes.virtual.costs import Profile

PAPER = "RL-VLA3 v1, arXiv 2602.05765v1"

DIGITS = 4
"""Significant digits of a calibrated cost. The tables print three to five."""

THREE_ROWS = (("colocated", 8), ("colocated", 32), ("disaggregated 2:1", 6))
FOUR_ROWS: tuple[tuple[str, int], ...] = (("colocated", 8), ("colocated", 32), ("disaggregated 1:1", 8))


def calibration_rows(model: str) -> tuple[Row, ...]:
    """The rows that a model's profile is made from."""
    if model in ("pi0", "OpenVLA-OFT"):
        return tuple(find("table3", model, placement, devices) for placement, devices in THREE_ROWS)
    devices = 16 if model == "ManiSkill pi0" else 8  # ManiSkill's disaggregated row with 8 GPUs contradicts the rows beside it
    synchronous = [find("table1", model, "colocated", 8), find("table1", model, "colocated", 32), find("table1", model, "disaggregated 1:1", devices)]
    return (*synchronous, find("table1", model, "disaggregated 1:1", 8, "async training"))


def calibrate(model: str) -> Profile:
    """The profile of one of the models in the tables."""
    rows = calibration_rows(model)
    return _from_stage_times(rows) if len(rows) == len(THREE_ROWS) else _from_step_times(rows)


def _from_stage_times(rows: tuple[Row, ...]) -> Profile:
    """The profile from three rows with printed rollout and actor times: six figures give six costs. f is the rest of a step."""
    few, many, apart = rows
    setup = few.setup
    rounds = setup.rollout_epochs * setup.decisions
    trajectory = (_printed(many.rollout) - _printed(few.rollout)) / (_trajectories(many) - _trajectories(few))
    narrow, wide = ((_printed(row.rollout) - trajectory * _trajectories(row)) / rounds for row in (few, apart))
    b = (wide - narrow) / (_width(apart) - _width(few))
    d = (_printed(apart.actor) - _printed(few.actor)) / (_rank_decisions(apart) - _rank_decisions(few))
    e = _printed(few.actor) - d * _rank_decisions(few)
    return _profile(
        few,
        rows,
        a=narrow - b * _width(few),
        b=b,
        c=trajectory / setup.decisions,
        d=d,
        e=e,
        f=max(apart.time - _printed(apart.rollout) - _printed(apart.actor), 0.0),
        across=max((_printed(many.actor) - e) / (d * _rank_decisions(many)), 1.0),
    )


def _from_step_times(rows: tuple[Row, ...]) -> Profile:
    """The profile from four rows with printed throughputs only: four step times give a, b, c and d. e and f are assumed to be 0, and `across` to be 1.

    Let R(n) be the rollout, I the channel's time for the trajectories of 8 GPUs, A the actor's time on one GPU, and s the share of a rollout epoch in a step.
    The step times are:
        colocated, 8 GPUs                            R(n) + I + A/8
        colocated, 32 GPUs                           R(n) + 4 I + A/8
        disaggregated, g GPUs                        R(2n) + g/8 I + A/4
        disaggregated, 8 GPUs, training overlapped   R(2n) + s (A/4 + I), because the rollouts take longer than training
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
    """The costs as a Profile. ManiSkill simulates on the GPU and shares its compute with inference. LIBERO's simulators do not use the compute."""
    setup: PaperSetup = row.setup
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
    """The name under which a model's profile ships with rlvla3."""
    return {
        "pi0": "libero-pi0",
        "OpenVLA-OFT": "libero-openvla-oft",
        "pi0.5": "libero-pi05",
        "GR00T N1.5": "libero-gr00t",
        "ManiSkill pi0": "maniskill-pi0",
    }[model]


def _width(row: Row) -> float:
    """Environments per rollout GPU."""
    return row.environments / row.parts[0]


def _trajectories(row: Row) -> int:
    """Trajectories of a step."""
    return row.environments * row.setup.rollout_epochs


def _rank_decisions(row: Row) -> float:
    """The decisions of a step on which one GPU of the actor trains."""
    return _trajectories(row) * row.setup.decisions / row.parts[1]


def _printed(time: float | None) -> float:
    """`time`, which calibration needs. Raises ValueError if it is not printed."""
    if time is None:
        raise ValueError("a row without rollout and actor times cannot be used for calibration")
    return time


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.{DIGITS}g}")
