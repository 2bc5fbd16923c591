"""What a policy returns is checked before anyone acts on it, and what reproduces a bad answer is kept."""

from __future__ import annotations

import asyncio
import re
from functools import partial

import numpy as np
import pytest
import torch

from rlvla3.inference.actor import Actor
from rlvla3.links.data_plane import Batch
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.observability.meter import MeterBoard
from rlvla3.policies.base import Evaluation
from rlvla3.policies.conversion import observations_from
from rlvla3.policies.expected_answers import AnswerError, ExpectedAnswers
from rlvla3.policies.noise import decision_noise
from rlvla3.runtimes.workers.bad_answer import keep_bad_answer
from rlvla3.runtimes.workers.policy_engine import DataPlanePolicyEngine
from rlvla3.training.offload import Residence
from tests.support.bad_answers import MISTAKES, NUMBERS, BadAnswerOptions, BadAnswers
from tests.support.learners import run_update
from tests.support.scaled_states import act_episodes, actor_critic, learner_of, rollouts_of, spaces

SEED, CPU = 7, torch.device("cpu")


def engine_of(tmp_path, mistake: str, after: int = 0, padded: bool = False):
    """An engine whose policy makes the mistake, with episodes in its data plane that ask it."""
    policy = BadAnswers(spaces(), 1, BadAnswerOptions(mistake=mistake, after=after)).eval()
    rollouts = rollouts_of(policy)
    act_episodes(rollouts, actor_critic(), range(4), "mixed", version=0)
    actor = Actor(policy, CPU, "eager", 4, padded=padded)
    keep = partial(keep_bad_answer, tmp_path, "generator 0", rollouts, (SEED, policy.options.noise_shape(policy.spaces, 1)))
    meter = MeterBoard(["generator"]).meter("generator")
    weights = WeightPlane(WeightMemory(), policy.published())
    return DataPlanePolicyEngine(actor, weights, rollouts, SEED, Residence(CPU), meter, None, keep=keep), actor


BATCH = Batch(np.array([1, 2, 3]), np.array([0, 2, 4]), np.array([True, True, True]), (0, 1, 2))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_said_in_words_and_can_be_repeated(tmp_path, mistake):
    engine, _ = engine_of(tmp_path, mistake)
    written = {name: engine._rollouts.rows(3, name).copy() for name in ("actions", "logprob", "value", "trace.sample")}
    with pytest.raises(AnswerError) as caught:
        asyncio.run(engine.infer(BATCH))
    said = str(caught.value)
    assert said.startswith("act of the policy BadAnswers returned ")
    assert "weights of version -1 and a batch of 3 decisions, of tickets 1, 2, 3. Its inputs and its answer are in logs/generator-0-bad-answer.npz" in said
    array, _, fault = mistake.partition(": ")
    if fault in NUMBERS:
        assert f"{array} with {'nan' if fault == 'nan' else fault.replace('minus ', '-')} for decision 4 of ticket 3: finite numbers were expected" in said
    elif fault and mistake != "trace: None":
        assert re.search(rf"{array} as .*: float32 \[3(, 1, 1)?\] was expected", said)
    assert all(np.array_equal(engine._rollouts.rows(3, name), array) for name, array in written.items())  # nothing of it has reached the data plane
    kept = np.load(tmp_path / "generator-0-bad-answer.npz")
    assert kept["ticket"].tolist() == [1, 2, 3] and kept["row"].tolist() == [0, 2, 4] and kept["seed"] == SEED and kept["version"] == -1
    assert np.array_equal(kept["state"], engine._rollouts.gather(BATCH.tickets, BATCH.rows, ["state"])["state"])
    assert np.array_equal(kept["noise"], decision_noise(SEED, BATCH.keys(), (1, 1)))
    assert kept["instruction"].tolist() == ["push"] * 3 and kept["explore"].all()


def test_a_bad_answer_is_repeated_by_what_was_kept(tmp_path):
    engine, actor = engine_of(tmp_path, "logprob: nan")
    with pytest.raises(AnswerError):
        asyncio.run(engine.infer(BATCH))
    kept = np.load(tmp_path / "generator-0-bad-answer.npz")
    observations = observations_from({name: kept[name] for name in ("state", "elapsed")}, kept["instruction"].tolist())
    again = actor.policy.act(observations, torch.from_numpy(kept["noise"]), torch.from_numpy(kept["explore"]))
    assert np.array_equal(again.logprob.numpy(), kept["answer.logprob"], equal_nan=True) and np.isnan(kept["answer.logprob"]).any()
    assert np.array_equal(again.actions.numpy(), kept["answer.actions"]) and np.array_equal(again.trace["sample"].numpy(), kept["answer.sample"])


@pytest.mark.parametrize("mistake", [mistake for mistake in MISTAKES if mistake.partition(": ")[2] not in NUMBERS])
def test_the_form_of_a_padded_answer_is_checked_before_the_first_batch(tmp_path, mistake):
    _, actor = engine_of(tmp_path, mistake, padded=True)
    with pytest.raises(AnswerError, match="act of the policy BadAnswers returned"):
        actor.prepare()


def test_only_the_rows_that_were_asked_for_must_be_finite(tmp_path):
    engine, actor = engine_of(tmp_path, "logprob: nan", padded=True)
    actor.prepare()
    asyncio.run(engine.infer(BATCH))  # padded to 4, and the last row is the bad one
    assert np.isfinite(engine._rollouts.rows(3, "logprob")).all()


def test_a_file_that_cannot_be_written_does_not_hide_the_mistake(tmp_path):
    engine, _ = engine_of(tmp_path / "gone", "value: inf")
    with pytest.raises(AnswerError, match=r"value with inf for decision 4 of ticket 3.*Its inputs could not be kept in .*gone"):
        asyncio.run(engine.infer(BATCH))


def _changed(evaluation: Evaluation, name: str, change) -> Evaluation:
    return Evaluation(
        **{**{field: getattr(evaluation, field) for field in ("logprob", "entropy", "value", "features")}, name: change(getattr(evaluation, name))}
    )


@pytest.mark.parametrize("name", ["logprob", "entropy", "value"])
@pytest.mark.parametrize(
    "change", [lambda x: x[..., None], lambda x: x.sum(), lambda x: x[1:], lambda x: x.long(), lambda x: x.detach().numpy(), lambda x: 0.0]
)
def test_what_evaluate_returns_has_its_form(name, change, monkeypatch):
    learner = learner_of(actor_critic())
    act_episodes(learner.rollouts, learner.policy, range(4), "mixed", 0)
    right = learner.policy.evaluate
    monkeypatch.setattr(learner.policy, "evaluate", lambda *given: _changed(right(*given), name, change))
    with pytest.raises(AnswerError, match=rf"evaluate of the policy ActorCritic returned {name} as .*: floating-point \[10"):
        run_update(learner)


def test_an_evaluation_may_have_no_entropy_and_must_be_one():
    expected = ExpectedAnswers(actor_critic())
    expected.check_evaluation(Evaluation(torch.zeros(2, 1, 1), None, torch.zeros(2), {}), 2)
    with pytest.raises(AnswerError, match="returned a tuple: return an Evaluation"):
        expected.check_evaluation((torch.zeros(2, 1, 1), None, torch.zeros(2)), 2)
