"""Weights that are not finite are neither published nor kept."""

from __future__ import annotations

import re

import pytest
import torch

from rlvla3.training.finite_weights import in_words, not_finite
from rlvla3.training.objective import LearnerError
from tests.support.learners import make_learner, run_update
from tests.support.tiny import TinyPolicy, tiny_recipe

BAD = (float("nan"), float("inf"), -float("inf"))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 3, 6])
def test_one_bad_number_is_found_wherever_it_is(bad, dtype, place):
    tensors = {
        "empty": torch.zeros(0, dtype=dtype),
        "fine": torch.full((5,), -3.0, dtype=dtype),
        "whole": torch.tensor([1, 2]),
        "bad": torch.ones(7, dtype=dtype),
    }
    assert not_finite(tensors) == []
    tensors["bad"][place] = bad
    assert not_finite(tensors) == ["bad"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_number_of_a_format_is_finite(dtype):
    assert not_finite({"large": torch.full((1000,), torch.finfo(dtype).max, dtype=dtype), "other": torch.full((3,), 1e4)}) == []


def test_no_tensors_are_finite():
    assert not_finite({}) == not_finite({"none": torch.zeros(0)}) == not_finite({"count": torch.tensor(3)}) == []


def test_a_message_names_a_few_tensors():
    assert in_words(["a", "b", "c", "d", "e"], 9) == "5 of 9 tensors hold NaN or infinity (a, b, c and 2 more)"


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", ["exp_avg", "exp_avg_sq", "weight"])
def test_weights_and_moments_are_checked(kind, bad):
    learner = make_learner()
    run_update(learner)
    learner.check_weights("update 1", learner.way_out)
    name, parameter = next(iter(learner._named.items()))
    tensor = parameter.data if kind == "weight" else learner.optimizer.state[parameter][kind]
    tensor.view(-1)[-1] = bad
    wrong = name if kind == "weight" else f"{kind}/{name}"
    with pytest.raises(LearnerError, match=rf"not finite after update 1: 1 of \d+ tensors .*\({re.escape(wrong)}\)\. They are neither published nor kept"):
        learner.check_weights("update 1", learner.way_out)


def test_a_step_that_finds_a_loss_of_nan_says_whether_the_weights_caused_it():
    learner = make_learner(policy=TinyPolicy())
    with torch.no_grad():
        learner.policy.actor_parameters()[0].fill_(float("nan"))
    with pytest.raises(LearnerError, match="the weights are not finite after a step of update 0"):
        run_update(learner)


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_a_learning_rate_that_is_too_large_ends_in_words(rate):
    recipe = tiny_recipe()
    critic = recipe.training.critic.model_copy(update={"learning_rate": rate})
    training = recipe.training.model_copy(update={"learning_rate": rate, "critic": critic})  # a recipe has at most 10; the numbers may grow in other ways too
    learner = make_learner(recipe.model_copy(update={"training": training}))
    with pytest.raises(LearnerError, match=r"lower training\.learning_rate \(now 1e\+3\d\)"):
        for update in range(3):
            run_update(learner, update)
            learner.check_weights(f"update {update + 1}", learner.way_out)
