"""The policy engine of a server: what it decides, and that a request at which a policy goes wrong costs no other one its answer."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from rlvla3.inference.actor import Actor
from rlvla3.policies.base import Decisions, Policy
from rlvla3.policies.expected_answers import AnswerError
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.options import PolicyOptions
from rlvla3.serving.engine import Noise, ServedPolicyEngine
from rlvla3.serving.requests import Request
from rlvla3.types import ActionSpace, Observation, Spaces

SPACES = Spaces({"front": (4, 4, 3)}, 2, ActionSpace("continuous", 3), 100)
TOO_LONG, BROKEN, INFINITE = "too long", "broken", "infinite"


class Policies(Policy):
    """Acts by what it sees: the state's first number, the mean of the frame, and noise where it may explore, or else its first number."""

    Options = PolicyOptions

    def __init__(self) -> None:
        super().__init__(SPACES, 2, PolicyOptions())
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[int] = []

    def act(self, observations, noise, explore):
        self.batches.append(len(observations))
        if TOO_LONG in observations.instructions:
            raise AnswerError("the prompt has 49 tokens, more than 48")
        if BROKEN in observations.instructions:
            raise RuntimeError("a mistake of the policy")
        rows = len(observations)
        seen = torch.stack([observations.state[:, 0], observations.images["front"].float().mean((1, 2, 3)), noise.reshape(rows, -1)[:, 0] + 10 * explore], 1)
        seen[[text == INFINITE for text in observations.instructions]] = float("inf")
        return Decisions(seen[:, None].repeat(1, 2, 1), torch.zeros(rows, 2, 3), torch.zeros(rows))

    def evaluate(self, observations, actions, trace):
        raise NotImplementedError

    def value_of(self, features):
        raise NotImplementedError

    def critic_parameters(self):
        return []


def requested(number: int, instruction: str = "") -> Request:
    image = np.full((4, 4, 3), number, np.uint8)
    seen = Observation({"front": image}, np.array([number, 0], np.float32), instruction)
    return Request(seen, (number, 0), 0.0, asyncio.get_running_loop().create_future())


async def _answers(engine: ServedPolicyEngine, instructions: list[str]) -> list[object]:
    batch = [requested(number, text) for number, text in enumerate(instructions)]
    await engine.begin(batch)
    await engine.end(batch)
    engine.write(batch)
    return await asyncio.gather(*(asyncio.wait_for(request.answer, 60) for request in batch), return_exceptions=True)


def answers(instructions: list[str], noise: Noise | None = None) -> tuple[list[object], list[str], Policies]:
    """What each request of a batch is answered, what was said, and the policy."""
    policy, said = Policies(), list[str]()
    with ThreadPoolExecutor(1) as thread:
        engine = ServedPolicyEngine(Actor(policy, torch.device("cpu"), "eager", 16), noise or Noise(), thread, said.append)
        try:
            return asyncio.run(_answers(engine, instructions)), said, policy
        finally:
            engine.close()


def right(answer: object, number: int) -> bool:
    actions = getattr(answer, "actions", None)
    return actions is not None and actions.shape == (2, 3) and bool((actions[:, :2] == number).all())


def test_a_batch_is_decided_at_once():
    given, said, policy = answers([""] * 5)
    assert all(right(answer, number) for number, answer in enumerate(given)) and policy.batches == [5] and not said


@pytest.mark.parametrize("wrong", [TOO_LONG, BROKEN, INFINITE])
@pytest.mark.parametrize("places", [[0], [3], [0, 2, 4], [0, 1, 2, 3, 4]])
def test_a_request_at_which_the_policy_goes_wrong_costs_no_other_one_its_answer(wrong, places):
    given, said, _ = answers([wrong if number in places else "" for number in range(5)])
    for number, answer in enumerate(given):
        if number in places:
            words = {TOO_LONG: "49 tokens", BROKEN: "Policies failed on the server: RuntimeError: a mistake of the policy", INFINITE: "not finite"}
            assert isinstance(answer, AnswerError) and words[wrong] in str(answer)
        else:
            assert right(answer, number)
    assert len(said) == (len(places) if wrong == BROKEN else 0)


def test_noise_is_that_of_a_run():
    shape = PolicyOptions().noise_shape(SPACES, 2)
    for explore in (False, True):
        given, _, _ = answers([""] * 3, Noise(seed=9, explore=explore))
        expected = decision_noise(9, [(int(explore), number, 0) for number in range(3)], shape).reshape(3, -1)[:, 0] + 10 * explore
        assert [answer.actions[0, 2] for answer in given] == expected.tolist()  # type: ignore[attr-defined]  # Decided
    given, _, _ = answers([""] * 3, Noise(seed=9, deterministic=True))
    assert len({float(answer.actions[0, 2]) for answer in given}) == 1  # type: ignore[attr-defined]  # Decided


def test_a_server_is_warm_before_its_first_client_and_a_policy_that_cannot_act_is_found():
    policy = Policies()
    with ThreadPoolExecutor(1) as thread:
        engine = ServedPolicyEngine(Actor(policy, torch.device("cpu"), "eager", 16), Noise(), thread)
        asyncio.run(engine.warm())
        assert policy.batches == [1]
        policy.act = None  # type: ignore[method-assign, assignment]
        with pytest.raises(TypeError):
            asyncio.run(engine.warm())
        engine.close()
