"""Messages arrive as they were sent, and cost a process no memory that it keeps."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import sys
from multiprocessing.reduction import ForkingPickler

import pytest

from rlvla3.observability.accounts import Accounts
from rlvla3.runtimes.processes import messages
from rlvla3.runtimes.processes.messages import Arrived, Failed, Grant, HandIn, Published, Train
from rlvla3.types import Finished, Purpose, Sent, Ticket, TicketCounts

TICKET = Ticket(7, "task", 3, 7, Purpose.EVALUATE, initial_state=2)
FINISHED = Finished(TICKET, 3, 6, True, 1.5, oldest=3, newest=4)
MESSAGES = [
    HandIn([FINISHED]),
    Grant([TICKET], answer=True),
    Arrived(FINISHED, TicketCounts(9, 8, 1, 0)),
    Train(0, 4, Accounts()),
    Published(2, {"kl": 0.1}, Accounts()),
    Failed("ValueError", "why", "where", explained=False),
    Finished.without_episode(TICKET),
]


def sent(message: object) -> object:
    return pickle.loads(bytes(ForkingPickler.dumps(message)))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message: object) -> None:
    assert sent(message) == copy.deepcopy(message) == message


def test_all_messages_are_pickled_in_the_same_way() -> None:
    kinds = [kind for kind in vars(messages).values() if dataclasses.is_dataclass(kind) and kind.__module__ == messages.__name__]
    assert len(kinds) > 20
    assert all(isinstance(kind, type) and issubclass(kind, Sent) for kind in kinds)


def test_a_process_does_not_grow_with_the_messages_that_it_sends_and_hears() -> None:
    """Python's own way to pickle them left some ten blocks of memory behind each pair, for the first thousand."""

    def hear() -> None:
        for _ in range(200):
            for message in MESSAGES[:3]:
                sent(message)

    hear()
    gc.collect()  # empties the lists in which Python keeps tuples
    before = sys.getallocatedblocks()
    hear()
    assert sys.getallocatedblocks() - before < 400
