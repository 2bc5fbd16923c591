"""Learners on several ranks, in processes of their own, and on one: the same work, to be compared."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlvla3.config import Recipe
from rlvla3.links.rendezvous import Rendezvous, meet_on_this_host
from rlvla3.links.rollouts import Rollouts, RolloutSpec
from rlvla3.observability.accounts import Accounts
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.parts import make_streamer
from rlvla3.policies.base import Policy
from rlvla3.policies.conversion import arrays_from, observations_from
from rlvla3.policies.mini_vla import MiniVLA
from rlvla3.policies.options import MiniVLAOptions
from rlvla3.training.checkpoint import CheckpointWriter, load_checkpoint
from rlvla3.training.learner import Learner
from rlvla3.training.ranks import SINGLE_RANK, DistributedRanks, RankLost, Ranks
from rlvla3.types import ActionSpace, Observation, Outcome, Spaces, Ticket
from tests.support.tiny import CHUNK, TinyPolicy, tiny_recipe, tiny_rollouts, write_episode
from tests.support.vla import FAMILIES
from tests.support.vla import make as make_pretrained

torch.set_num_threads(1)  # two of them wait for each other's core on a machine that is busy

LIMIT_S = 300.0
BATCH = 8
SEEING = Spaces(cameras={"front": (16, 16, 3)}, state=3, action=ActionSpace("continuous", 2), max_steps=6)


@dataclass
class Work:
    """Updates of a policy on episodes of uneven lengths.

    kind: `tiny`, `mini_vla`, `adapters`, a mini VLA of which little is trained, or a pretrained family. exact: in float64.
    options: of a pretrained family. algorithm, training: settings. successes: which of an
    update's tickets. all_stale: whether all decisions are one update old. first, updates: which updates. begin_from: a checkpoint.
    keep_in: a run to keep one in.
    """

    kind: str = "tiny"
    exact: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    algorithm: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    successes: Sequence[int] = (0, 3, 5, 6)
    all_stale: bool = False
    first: int = 0
    updates: int = 3
    begin_from: Path | None = None
    keep_in: Path | None = None

    def recipe(self, ranks: int) -> Recipe:
        shape = {"batch": BATCH, "steps": 2, "epochs": 2, "micro_batch": 3, "learning_rate": 1e-2, "gradient_clip": 0.5, "critic": {"epochs": 2, "batch": 7}}
        return tiny_recipe(algorithm=self.algorithm, training=shape | self.training | {"ranks": ranks})


@dataclass
class Done:
    """What came of it: the whole gradient of every optimizer step, metrics of every update, and the weights."""

    gradients: list[NDArray[np.float64]]
    metrics: list[dict[str, float]]
    weights: dict[str, NDArray[np.float64]]


def do(ranks: Ranks, work: Work) -> Done:
    """Do `work` as one of `ranks`."""
    recipe = work.recipe(ranks.size)
    policy, rollouts = make_policy(work.kind, work.exact, **work.options), make_rollouts(work.kind)
    learner = Learner(policy, recipe, rollouts, "cpu", ranks)
    gradients = _recorded_gradients(learner)
    if work.begin_from:
        assert load_checkpoint(work.begin_from, policy, learner) == work.first
    metrics = [run_update(learner, recipe, update, work) for update in range(work.first, work.first + work.updates)]
    if work.keep_in:
        _keep(learner, recipe, work)
    weights = {name: learner.parallel.whole(tensor).numpy().copy() for name, tensor in policy.state_dict().items()}
    return Done(gradients, metrics, weights)


def _keep(learner: Learner, recipe: Recipe, work: Work) -> None:
    assert work.keep_in is not None
    checkpoints = CheckpointWriter(RunDirectory(work.keep_in), 5, learner, "tests.support.tiny:TinyPolicy")
    checkpoints.begin(Accounts(work.first + work.updates))
    checkpoints.finish()


def run_update(learner: Learner, recipe: Recipe, update: int, work: Work) -> dict[str, float]:
    """One update, as the train loop makes it, of episodes that arrive in an order of their own."""
    streamer = make_streamer(recipe, rank=learner.ranks.rank, ranks=learner.ranks.size)
    tickets = streamer.tickets(update)
    learner.begin_update(update, tickets)
    for ticket in tickets:
        success = ticket - tickets.start in work.successes
        _write(learner.rollouts, work, ticket, decisions=1 + ticket * 7 % 3, version=update - (1 if work.all_stale else ticket % 2), success=success)
    for ticket in np.random.default_rng(update).permutation(tickets).tolist():
        streamer.arrived(ticket, learner.rollouts.decisions(ticket))
    for micro_batch in streamer.update(update):
        assert micro_batch is not None
        learner.accumulate(micro_batch)
        if micro_batch.closes_step:
            learner.step()
        if micro_batch.closes_epoch and learner.enough:
            break
    return learner.finish_update()


def _recorded_gradients(learner: Learner) -> list[NDArray[np.float64]]:
    gradients: list[NDArray[np.float64]] = []

    def record(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        whole = [learner.parallel.whole(torch.zeros_like(p) if p.grad is None else p.grad) for p in parameters]
        gradients.append(torch.cat([gradient.flatten() for gradient in whole]).detach().numpy())

    learner.optimizer.register_step_pre_hook(record)
    return gradients


@cache
def _behaviour(kind: str) -> Policy:
    """The policy that acted."""
    return make_policy(kind if kind in FAMILIES else "mini_vla", exact=kind not in FAMILIES)


def make_policy(kind: str, exact: bool, **options: Any) -> Policy:
    if kind == "tiny":
        return TinyPolicy()
    if kind in FAMILIES:
        made: Policy = make_pretrained(kind, SEEING, seed=3, chunk=CHUNK, **options)
        return made
    torch.manual_seed(3)
    policy = MiniVLA(SEEING, CHUNK, MiniVLAOptions(instruction_bytes=8, layers=2, width=32, expert_width=32))
    policy = policy.double() if exact else policy
    last = policy.critic.value[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight, std=0.1)  # it begins at zero, and so would all that the critic gets
    if kind == "adapters":
        for name, parameter in policy.named_parameters():
            parameter.requires_grad = "out" in name or "critic" in name
    return policy


def make_rollouts(kind: str) -> Rollouts:
    if kind == "tiny":
        return tiny_rollouts(2 * BATCH)
    return Rollouts(RolloutSpec(SEEING, CHUNK, _behaviour(kind).options.trace(SEEING, CHUNK), 2 * BATCH))


def _write(rollouts: Rollouts, work: Work, ticket: int, *, decisions: int, version: int, success: bool) -> None:
    reward = float(success)
    if work.kind == "tiny":
        write_episode(rollouts, TinyPolicy(), ticket, decisions=decisions, reward=reward, success=success, version=version, terminated=success)
        return
    rng, policy = np.random.default_rng([11, ticket]), _behaviour(work.kind)
    episode = rollouts.begin(Ticket(ticket, "reach", ticket, ticket), _look(rng))
    for row in range(decisions + 1):
        here = np.array([ticket]), np.array([row])
        shown = observations_from(rollouts.gather(*here, rollouts.observation_names), ["reach"])
        noise = torch.from_numpy(rng.standard_normal((1, *policy.options.noise_shape(SEEING, CHUNK)))).to(torch.float32 if work.kind in FAMILIES else None)
        decided = arrays_from(policy.act(shown, noise, torch.ones(1, dtype=torch.bool)), version)
        decided["logprob"] = decided["logprob"] + 0.1 * rng.standard_normal(decided["logprob"].shape).astype(np.float32)
        rollouts.scatter(*here, decided)
        if row < decisions:
            ends = row == decisions - 1
            after = None if ends and success else _look(rng)
            rewards = np.array([0.0, reward * ends], np.float32)
            episode.record(Outcome(decided["actions"][0], rewards, after, success and ends, success and ends, ends and not success))
    episode.finish()


def _look(rng: np.random.Generator) -> Observation:
    return Observation({"front": rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)}, rng.standard_normal(3).astype(np.float32), "reach")


class Lost:
    """The result of a process that ended without one."""


def together(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What `function(ranks, *args)` gives on each of `size` ranks, in processes of their own. Their errors are raised here."""
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe(duplex=False) for _ in range(size)]
    meetings = meet_on_this_host(size)
    processes = [
        spawn.Process(target=_one_of, args=(meeting, theirs, function, args), daemon=True) for meeting, (_, theirs) in zip(meetings, pipes, strict=True)
    ]
    try:
        for process in processes:
            process.start()
        assert meetings[0].listener
        meetings[0].listener.close()
        for _, theirs in pipes:
            theirs.close()
        return [_received(ours) for ours, _ in pipes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _received(ours: Connection) -> Any:
    assert ours.poll(LIMIT_S), "a rank does not answer"
    try:
        result, error = ours.recv()
    except EOFError:
        return Lost()
    assert error is None, error
    return result


def _one_of(meeting: Rendezvous, theirs: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        ranks = DistributedRanks(meeting)
        theirs.send((function(ranks, *args), None))
        ranks.barrier()
        ranks.close()
    except Exception:
        theirs.send((None, traceback.format_exc()))


def do_all(ranks: Ranks, works: Sequence[Work]) -> list[Done]:
    return [do(ranks, work) for work in works]


def lose_the_other(ranks: Ranks) -> str:
    """What rank 0 is told when rank 1 is gone in the midst of it."""
    ranks.barrier()
    if not ranks.first:
        os._exit(0)
    try:
        ranks.barrier()
    except RankLost as error:
        return f"told: {error}"
    raise AssertionError("nothing was said")


def alone(work: Work) -> Done:
    return do(SINGLE_RANK, replace(work, training=work.training | {"sharding": "none", "precision": "auto"}))  # fp32, on a CPU
