"""After `tokenise`, `act` is a function of tensors of the device: it waits for nothing, and makes no tensor of Python numbers. So a CUDA graph can hold it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from rlvla3.config import PolicyConfig
from rlvla3.inference.watch import Watch
from rlvla3.policies.base import Observations
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.registry import make_policy
from rlvla3.types import ActionSpace, Spaces
from tests.support import vla

torch.set_num_threads(1)
ROBOT = Spaces({"front": (64, 64, 3)}, 4, ActionSpace("continuous", 4), 100, ("press the button", "open the drawer"))
VECTOR = Spaces({}, 5, ActionSpace("discrete", 1, choices=3), 200)
TORQUE = Spaces({}, 3, ActionSpace("continuous", 2, low=-2.0, high=2.0), 200)
PIXELS = Spaces({"screen": (84, 84, 3)}, 2, ActionSpace("continuous", 1), 200)
SMALL = {"width": 32, "layers": 2, "expert_width": 32, "instruction_bytes": 32}
STATE_PROMPT = {"processing": {"prompt": {"form": "task_state", "length": 140}}}
PLACES = {"processing": {"actions": {"dimensions": [0, 2, 4, 6, 1, 3, 5]}, "state": {"dimensions": [7, 0, 3]}}}

CASES: dict[str, tuple[str, Spaces, dict[str, Any]]] = {
    "flow": ("mini_vla", ROBOT, SMALL),
    "flow_noise": ("mini_vla", ROBOT, SMALL | {"flow": {"method": "flow_noise", "steps": "one", "noise": 0.2}}),
    "flow_learned": ("mini_vla", ROBOT, SMALL | {"flow": {"method": "flow_noise", "noise": "learned"}}),
    "flow_sde": ("mini_vla", ROBOT, SMALL | {"flow": {"method": "flow_sde"}}),
    "tokens": ("mini_vla", ROBOT, SMALL | {"head": "tokens"}),
    "discrete": ("actor_critic", VECTOR, {}),
    "torque": ("actor_critic", TORQUE, {}),
    "pixels": ("actor_critic", PIXELS, {}),
    **{family: (family, vla.ROBOT, {}) for family in vla.FAMILIES},
    "pi05_state": ("pi05", vla.ROBOT, STATE_PROMPT),
    "pi0_places": ("pi0", vla.ROBOT, PLACES),
    "openvla_l1": ("openvla_oft", vla.ROBOT, {"model": {"head": "l1"}}),
    "smolvla_special": ("smolvla", vla.ROBOT, {"model": {"image_start": [3, 4], "image_end": [5]}}),
}
every_case = pytest.mark.parametrize("case", CASES)


def make(case):
    name, spaces, options = CASES[case]
    torch.manual_seed(0)
    config = PolicyConfig(name=name, chunk=4, size="tiny" if name in vla.FAMILIES else "published", options=options)
    return make_policy(config, spaces).eval()


def asked(policy, rows=3):
    noise = decision_noise(0, [(1, ticket, 0) for ticket in range(rows)], policy.options.noise_shape(policy.spaces, policy.chunk))
    instructions = policy.spaces.instructions or ("",)
    seen = vla.observe(replace(policy.spaces, instructions=instructions), rows)
    return seen, torch.from_numpy(noise), torch.arange(rows) % 2 == 0


def numbers(decisions):
    return [decisions.actions, decisions.logprob, decisions.value, *decisions.trace.values()]


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
    assert all(torch.equal(one, other) for one, other in zip(numbers(acted), numbers(again), strict=True))
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


@pytest.mark.parametrize("mistake", ["item", "mask", "python numbers"])
def test_the_watch_finds(mistake):
    policy = make("torque")

    class Mistaken(type(policy)):  # type: ignore[misc]
        def act(self, observations: Observations, noise, explore):
            if mistake == "item":
                bool(explore.any())
            elif mistake == "mask":
                noise[explore]
            else:
                torch.tensor([1.0, 2.0])
            return super().act(observations, noise, explore)

    policy.__class__ = Mistaken
    with torch.inference_mode(), Watch() as watch:
        policy.act(*asked(policy))
    assert watch.found
