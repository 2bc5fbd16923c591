"""CUDA graphs on a GPU: they answer as the policy does, read new weights, and need no more memory once they are recorded."""

import copy

import pytest
import torch

from rlvla3.inference.actor import Actor, make_actor
from rlvla3.inference.graphs import NotCapturable, Recorder
from tests.support.acting import CASES, acted, apart, asked, begun, make

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")]
GPU = torch.device("cuda", 0)
LARGEST = 6

SAME_SIZE = 1e-4
"""Graphs against the policy as it is, both padded to the same size: the same kernels, up to the order of sums."""


def prepared(policy, way, padded=None):
    actor = Actor(policy, GPU, way, LARGEST, padded)
    actor.prepare()
    return actor


@pytest.mark.parametrize("case", CASES)
def test_graphs_answer_as_the_policy_does_at_every_number_of_rows(case):
    policy = make(case, "cuda")
    graphs, eager = prepared(policy, "graphs"), prepared(policy, "eager", padded=True)
    assert graphs.sizes == eager.sizes == (1, 2, 4, 6)
    for rows in range(1, LARGEST + 1):
        given = asked(policy, rows, seed=rows)
        assert apart(acted(graphs, given), acted(eager, given)) <= SAME_SIZE, f"{rows} rows"


@pytest.mark.parametrize("case", ["flow", "tokens", "torque", "pi05_state"])
def test_weights_that_are_copied_in_place_are_seen(case):
    policy = make(case, "cuda")
    graphs, eager = prepared(policy, "graphs"), prepared(policy, "eager", padded=True)
    given = asked(policy, 3)
    before = copy.deepcopy(acted(graphs, given))
    with torch.no_grad():
        for tensor in policy.published().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor * 1.5 + 0.01)
    after = acted(graphs, given)
    assert apart(after, before) > 0
    assert apart(after, acted(eager, given)) <= SAME_SIZE


def test_the_next_batch_may_begin_before_the_last_one_is_read():
    policy = make("flow", "cuda")
    graphs = prepared(policy, "graphs")
    questions = [asked(policy, rows, seed=rows) for rows in (3, 6, 1, 5)]
    expected = [copy.deepcopy(acted(graphs, given)) for given in questions]
    last = None
    for given, right in zip(questions, expected, strict=True):
        answer = begun(graphs, given)
        if last is not None:
            assert apart(last[0].decisions, last[1]) == 0
        answer.event.synchronize()
        last = answer, right
    assert last is not None and apart(last[0].decisions, last[1]) == 0


def test_rows_in_another_order_get_their_own_decisions():
    policy = make("torque", "cuda")
    graphs = prepared(policy, "graphs")
    given, order = asked(policy, 4), [2, 0, 3, 1]
    in_order = copy.deepcopy(acted(graphs, given))
    mixed = acted(graphs, given, order)
    torch.testing.assert_close(mixed.actions, in_order.actions[order])


def test_no_batch_allocates_memory_of_the_device():
    policy = make("flow", "cuda")
    graphs = prepared(policy, "graphs")
    acted(graphs, asked(policy, LARGEST))
    before = torch.cuda.memory_allocated(GPU), torch.cuda.memory_reserved(GPU)
    for rows in (1, 6, 3, 5, 2, 4, 6):
        acted(graphs, asked(policy, rows))
    assert (torch.cuda.memory_allocated(GPU), torch.cuda.memory_reserved(GPU)) == before


def test_all_sizes_share_their_memory():
    """Twelve sizes need hardly more than the largest one alone. Only the pool of the graphs counts: torch and cuBLAS keep more beside it."""

    def pools() -> int:
        return sum(segment["total_size"] for segment in torch.cuda.memory_snapshot() if segment["segment_pool_id"] != (0, 0))

    def reserved(largest_alone: bool) -> int:
        before = pools()
        actor = Actor(make("flow", "cuda"), GPU, "graphs", 128)
        if largest_alone:
            actor._sizes = actor._sizes[-1:]
        actor.prepare()
        kept.append(actor)
        return pools() - before

    kept: list[Actor] = []  # until both are measured, so that none is given back between
    alone = reserved(largest_alone=True)
    assert 0 < alone <= reserved(largest_alone=False) < 1.5 * alone


def test_auto_means_graphs_here_and_compiled_code_is_recorded_too():
    policy = make("torque", "cuda")
    assert make_actor(policy, GPU, "auto", 2).way == "graphs"
    compiled = make_actor(policy, GPU, "compile", 2)
    given = asked(policy, 2)
    assert apart(acted(compiled, given), acted(prepared(policy, "eager", padded=True), given)) < 1e-4


class Waits(type(make("torque"))):  # type: ignore[misc]
    def act(self, observations, noise, explore):
        if bool(explore.any()):
            noise = noise + 0
        return super().act(observations, noise, explore)


def test_a_policy_that_waits_for_the_device_acts_eagerly_and_a_notice_says_why():
    policy = make("torque", "cuda")
    policy.__class__ = Waits
    actor = make_actor(policy, GPU, "auto", 2)
    assert actor.way == "eager" and "needed on the host" in actor.notices[0]
    assert acted(actor, asked(policy, 2)).actions.shape == (2, 4, 2)


def test_a_recording_that_cannot_be_ended_leaves_stream_and_memory_as_they_were():
    present = torch.cuda.current_stream(GPU)

    def act():
        torch.cuda.current_stream(GPU).synchronize()  # nothing that torch dispatches, so it is found only by the recording

    with pytest.raises(NotCapturable, match="cannot be recorded"):
        Recorder(GPU).record(act)
    assert torch.cuda.current_stream(GPU) == present
    much = torch.empty(2**28, dtype=torch.uint8, device=GPU)
    reserved = torch.cuda.memory_reserved(GPU)
    del much
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved(GPU) <= reserved - 2**28, "torch still believes that a recording is under way"
