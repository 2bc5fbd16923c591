"""The body of a trainer rank in a Ray run: the trainer of any run, with a data plane of its own that episodes are brought to."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ray

from rlvla3.config import Recipe
from rlvla3.links.own_thread import OwnThread
from rlvla3.links.rendezvous import MeetingPoint, Rendezvous, meeting_point
from rlvla3.links.rollouts import Rollouts
from rlvla3.links.weights.between_hosts.carriers import check_carrier
from rlvla3.links.weights.between_hosts.sender import WeightSender
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.observability.meter import OverlappingMeter
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.tracing import make_board
from rlvla3.parts import rollout_spec
from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.ray.actor import ActorState
from rlvla3.runtimes.ray.messages import MeetAt, WeightsAt
from rlvla3.runtimes.ray.reports import workers_of_rank
from rlvla3.runtimes.supervision.host_supervisor import one_thread_each
from rlvla3.runtimes.worker_names import WEIGHTS
from rlvla3.simulators.description import Description, remember
from rlvla3.types import Version


class AnnouncingMemory(WeightMemory):
    """announce: called when a version is whole."""

    announce: Callable[[], None]

    def complete(self, which: int, version: Version) -> None:
        super().complete(which, version)
        self.announce()


async def run_ray_trainer(
    control: Control,
    state: ActorState,
    recipe: Recipe,
    capacity: int,
    run: RunDirectory,
    resume: Path | None,
    rank: int,
    meeting_at: MeetingPoint | None,
    descriptions: Mapping[str, Description],
) -> None:
    """Run one rank. Rank 0 says where versions are sent from, and where the other ranks meet it. Then each rank does what any trainer does.

    meeting_at: where rank 0 is met (None: this is rank 0). descriptions: of the simulators, which the coordinator has.
    """
    one_thread_each()
    remember(descriptions)
    from rlvla3.runtimes.workers.trainer_worker import run_trainer  # torch reads the number of threads as it is imported

    board, memory = make_board(recipe, run.samples)(workers_of_rank(rank)), AnnouncingMemory(pins=recipe.evaluation.every > 0)
    here = ray.util.get_node_ip_address()
    state.rollouts, state.board, state.memory = Rollouts(rollout_spec(recipe, capacity)), board, memory
    check_carrier(recipe.weights.carrier)
    with ExitStack() as stack:
        meeting = stack.enter_context(_meeting(rank, recipe, here, meeting_at))
        if rank == 0:
            sender = WeightSender(memory, here, recipe.weights.fanout, recipe.weights.carrier, OverlappingMeter(board.meter(WEIGHTS), "version"))
            memory.announce = sender.announce
            stack.enter_context(OwnThread(sender.run(), "weight sender"))
            control.send(WeightsAt(sender.address))
            control.send(MeetAt(meeting.address if meeting else None))
        await run_trainer(control, recipe, state.rollouts, board, memory, run, resume, None, meeting)


@contextmanager
def _meeting(rank: int, recipe: Recipe, here: str, at: MeetingPoint | None) -> Iterator[Rendezvous | None]:
    """How a rank reaches the other ranks. Every rank sees only its own GPU."""
    size = recipe.training.ranks
    if size == 1:
        yield None
    elif rank:
        assert at is not None
        yield Rendezvous(rank, size, at)
    else:
        with socket.create_server((here, 0)) as listener:
            yield Rendezvous(0, size, meeting_point(listener), listener=listener)
