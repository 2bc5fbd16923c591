"""After `tokenise`, `act` is a function of tensors of the device: it waits for nothing, and makes no tensor of Python numbers. So a CUDA graph can hold it."""

from dataclasses import replace

import pytest
import torch

from rlvla3.inference.watch import Watch
from rlvla3.policies.base import Observations
from tests.support.acting import CASES, asked, make, numbers

torch.set_num_threads(1)
every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_act_is_a_function_of_tensors_of_the_device(case):
    policy = make(case)
    observations, noise, explore = asked(policy)
    observations = replace(policy.tokenise(observations), instructions=())
    with torch.inference_mode():
        policy.act(observations, noise, explore)  # constants are made at the first call, before a graph is captured
        with Watch() as watch:
            policy.act(observations, noise, explore)
    assert watch.count > 10 and not watch.found


@every_case
def test_words_that_are_given_change_no_bit(case):
    policy = make(case)
    observations, noise, explore = asked(policy)
    given = policy.tokenise(observations)
    acted, again = (policy.act(seen, noise, explore) for seen in (observations, given))
    assert all(torch.equal(one, other) for one, other in zip(numbers(acted).values(), numbers(again).values(), strict=True))
    if case != "openvla_l1":
        evaluated, again = (policy.evaluate(seen, acted.actions, acted.trace) for seen in (observations, given))
        assert torch.equal(evaluated.logprob, again.logprob) and torch.equal(evaluated.value, again.value)


def test_words_follow_the_observations_to_their_device():
    policy = make("flow")
    words = policy.tokenise(asked(policy)[0]).to("meta").words
    assert words["tokens"].device.type == "meta" and words["instruction"].device.type == "meta"


def test_the_state_in_a_prompt_follows_the_statistics():
    """They arrive with a version of the weights, and are copied to where prompts are made."""
    policy = make("pi05_state")
    scale = policy.processor.state_scale
    statistics = {"first": torch.zeros_like(scale.first), "second": torch.ones_like(scale.second)}
    elsewhere = torch.zeros(1, 8, device="meta")
    before = scale._beside(elsewhere)
    assert all(there is here for there, here in zip(scale._beside(elsewhere), before, strict=True))
    scale.first.copy_(statistics["first"])
    assert scale._beside(elsewhere)[0] is not before[0]


@pytest.mark.parametrize("mistake", ["item", "mask", "python numbers", "moves", "sizes"])
def test_the_watch_finds(mistake):
    policy = make("torque")

    class Mistaken(type(policy)):  # type: ignore[misc]
        def act(self, observations: Observations, noise, explore):
            if mistake == "item":
                bool(explore.any())
            elif mistake == "mask":
                noise[explore]
            elif mistake == "moves":
                noise.to("meta")
            elif mistake == "sizes":
                noise.flatten().repeat_interleave(explore.long().repeat(noise[0].numel()))
            else:
                torch.tensor([1.0, 2.0])
            return super().act(observations, noise, explore)

    policy.__class__ = Mistaken
    with torch.inference_mode(), Watch() as watch:
        policy.act(*asked(policy))
    assert watch.found
