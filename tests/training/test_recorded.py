"""What was recorded, on its way to the learner: on a CPU it is what lies in the data plane; on a GPU it is copied ahead and nobody waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from rlvla3.policies.base import Observations
from rlvla3.training.learner import Learner
from rlvla3.training.recorded import Loader, Recorded, on_device
from rlvla3.types import MicroBatch
from tests.support.learners import UPDATE, make_learner
from tests.support.ranks import Work, make_policy, make_rollouts, run_update
from tests.support.tiny import TinyPolicy, micro_batch, pairs, tiny_recipe

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="copies go ahead only on a GPU: no CUDA device here")


def all_pairs(learner: Learner) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    tickets, rows = np.array(pairs(learner.rollouts, UPDATE)).T
    return tickets, rows


def test_on_a_cpu_the_tensors_are_the_gathered_arrays() -> None:
    learner = make_learner()
    tickets, rows = all_pairs(learner)
    recorded = Loader(learner.rollouts, CPU, TinyPolicy().tokenise).load(tickets, rows, learner._fields)
    for name, array in learner.rollouts.gather(tickets, rows, learner._fields).items():
        np.testing.assert_array_equal(recorded.arrays[name], array)
        assert recorded[name].data_ptr() == recorded.arrays[name].__array_interface__["data"][0]
    assert recorded.observations is not None and recorded.observations.instructions == ["reach"] * len(tickets)


def test_words_are_made_when_observations_are_loaded_and_only_then() -> None:
    learner, asked = make_learner(), []

    def tokenise(observations: Observations) -> Observations:
        asked.append(len(observations))
        return observations

    loader, (tickets, rows) = Loader(learner.rollouts, CPU, tokenise), all_pairs(learner)
    assert loader.load(tickets, rows, ("logprob", "version")).observations is None and asked == []
    loader.load(tickets, rows, learner._fields)
    assert asked == [len(tickets)]


def test_preparing_changes_nothing_of_what_is_learned() -> None:
    """Whatever is prepared: the next micro-batch, another one, or one of an update that is not gone on with."""
    learners = [make_learner(tiny_recipe(training={"epochs": 1})) for _ in range(2)]
    for learner, prepares in zip(learners, (False, True), strict=True):
        learner.begin_update(0, UPDATE)
        for step in range(2):
            if prepares:
                learner.prepare(micro_batch([(3, 0)]))
            learner.accumulate(micro_batch(pairs(learner.rollouts, UPDATE[2 * step : 2 * step + 2]), step=step))
            learner.step()
        learner.finish_update()
    for one, other in zip(*(learner.policy.parameters() for learner in learners), strict=True):
        assert torch.equal(one, other)


@contextmanager
def no_wait() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_is_given_what_lies_in_the_data_plane_ahead_of_time_and_without_a_wait() -> None:
    learner, device = make_learner(), torch.device("cuda", 0)
    tickets, rows = all_pairs(learner)
    loader = Loader(learner.rollouts, device, TinyPolicy().tokenise)
    product = torch.randn(4096, 4096, device=device)
    for prepared in (None, 3, len(tickets)):
        torch.cuda.synchronize(device)
        with no_wait():
            for _ in range(20):
                product = (product @ product).clamp(-1, 1)
            if prepared is not None:
                loader.prepare(tickets[:prepared], rows[:prepared], learner._fields)
                coming: Recorded = loader._coming.recorded  # type: ignore[union-attr]
            recorded = loader.load(tickets, rows, learner._fields)
        if prepared == len(tickets):
            assert recorded is coming
        for name, array in learner.rollouts.gather(tickets, rows, learner._fields).items():
            np.testing.assert_array_equal(recorded[name].cpu().numpy(), array)


@pytest.mark.gpu
@needs_gpu
def test_memory_that_is_used_again_does_not_change_what_was_loaded() -> None:
    """Many loads in a row, each dropped while the device still reads it."""
    learner, device = make_learner(), torch.device("cuda", 0)
    tickets, rows = all_pairs(learner)
    loader = Loader(learner.rollouts, device, TinyPolicy().tokenise)
    busy, sums, expected = torch.randn(4096, 4096, device=device), [], []
    for load in range(50):
        picked = np.random.default_rng(load).permutation(len(tickets))
        busy = (busy @ busy).clamp(-1, 1)  # the reading stream is behind
        recorded = loader.load(tickets[picked], rows[picked], learner._fields)
        loader.prepare(tickets, rows, learner._fields)
        sums.append((recorded["state"].double() * on_device(np.arange(len(tickets))[:, None], device)).sum())
        expected.append((recorded.arrays["state"].astype(np.float64) * np.arange(len(tickets))[:, None]).sum())
    np.testing.assert_allclose(torch.stack(sums).cpu().numpy(), expected, rtol=1e-12)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "algorithm",
    [
        {},
        {"correction": "soft"},
        {"correction": "truncated", "reference": {"weight": 0.1}},
        {"advantage": "grpo", "group_size": 2},
        {"sampler_correction": "truncated"},
        {"sampler_correction": "truncated", "correction": "none"},
    ],
    ids=["gae", "soft", "truncated with a reference", "grpo", "the sampler is corrected", "the sampler is corrected, around the behaviour policy"],
)
def test_a_gpu_is_never_waited_for_within_a_micro_batch(algorithm: dict[str, Any], precision: str) -> None:
    work = Work("mini_vla", exact=False, algorithm=algorithm, training={"micro_batch": 5, "precision": precision})
    recipe = work.recipe(1)
    learner = Learner(make_policy("mini_vla", exact=False), recipe, make_rollouts("mini_vla"), torch.device("cuda", 0))
    assert learner.optimizer.defaults["fused"]
    learner.credit.statistics.add_update([-1.0, 0.5, 2.0])
    run_update(learner, recipe, 0, work)  # what is made once, such as constants and workspaces
    accumulate = learner.accumulate

    def watched(batch: MicroBatch) -> None:
        with no_wait():
            accumulate(batch)

    learner.accumulate = watched  # type: ignore[method-assign]
    metrics = run_update(learner, recipe, 1, work)
    assert np.isfinite(metrics["policy_loss"])


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_learns_what_a_cpu_learns() -> None:
    """In fp32, with checkpoints that go from one to the other."""
    work = Work("mini_vla", exact=False, training={"micro_batch": 5, "precision": "fp32", "learning_rate": 1e-4})
    recipe, learners = work.recipe(1), []
    for device in ("cpu", "cuda"):
        learner = Learner(make_policy("mini_vla", exact=False), recipe, make_rollouts("mini_vla"), device)
        run_update(learner, recipe, 0, work)
        learners.append(learner)
    states = [{key: tensor.cpu() for key, tensor in learner.parameter_state().items()} for learner in learners]
    weights = [{name: tensor.cpu() for name, tensor in learner.policy.state_dict().items()} for learner in learners]
    began = dict(make_policy("mini_vla", exact=False).named_parameters())
    moved, apart = (torch.cat([(weights[which][name] - other[name]).detach().flatten() for name in began]) for which, other in ((0, began), (1, weights[0])))
    # As a whole: AdamW makes whole steps of gradients that are 0 but for rounding, such as those of the biases of attention's keys.
    assert apart.norm() < 0.02 * moved.norm()
    for learner, state, other in zip(learners, reversed(states), reversed(weights), strict=True):  # each goes on where the other was
        learner.policy.load_state_dict(other)
        learner.load_parameter_state({key: tensor.to(learner.device) if key.split("/")[0] != "step" else tensor for key, tensor in state.items()})
        assert np.isfinite(run_update(learner, recipe, 1, work)["policy_loss"])
