"""An actor on the CPU: it answers as the policy does, whatever the sizes, the padding, the order and what its buffers held before."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rlvla3.config import PolicyConfig
from rlvla3.errors import RecipeError
from rlvla3.inference import actor as module
from rlvla3.inference.actor import Actor, make_actor
from rlvla3.inference.choice import choose_way
from rlvla3.inference.graphs import NotCapturable
from rlvla3.policies.base import Decisions, Observations
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.registry import make_policy
from rlvla3.types import ActionSpace, Spaces
from tests.support import vla

torch.set_num_threads(1)
CPU = torch.device("cpu")
ROBOT = Spaces({"front": (64, 64, 3)}, 4, ActionSpace("continuous", 4), 100, ("press the button", "open the drawer"))
VECTOR = Spaces({}, 5, ActionSpace("discrete", 1, choices=3), 200)
SMALL = {"width": 32, "layers": 2, "expert_width": 32, "instruction_bytes": 32}
STATE_PROMPT = {"processing": {"prompt": {"form": "task_state", "length": 140}}}
CASES: dict[str, tuple[str, Spaces, dict[str, Any]]] = {
    "mini_vla": ("mini_vla", ROBOT, SMALL),
    "tokens": ("mini_vla", ROBOT, SMALL | {"head": "tokens"}),
    "actor_critic": ("actor_critic", VECTOR, {}),
    "pi0": ("pi0", vla.ROBOT, {}),
    "pi05": ("pi05", vla.ROBOT, STATE_PROMPT),
}
every_case = pytest.mark.parametrize("case", CASES)


def make(case):
    name, spaces, options = CASES[case]
    torch.manual_seed(0)
    config = PolicyConfig(name=name, chunk=4, size="tiny" if name in vla.FAMILIES else "published", options=options)
    return make_policy(config, spaces).eval()


def asked(policy, rows, seed=0):
    """Observations, noise and explore."""
    spaces = replace(policy.spaces, instructions=policy.spaces.instructions or ("",))
    noise = decision_noise(seed, [(1, ticket, 0) for ticket in range(rows)], policy.options.noise_shape(spaces, policy.chunk))
    return vla.observe(spaces, rows, seed), torch.from_numpy(noise), torch.arange(rows) % 2 == 0


def wait(actor, observations):
    """Put rows among those that wait, in parts."""
    arrays = {f"image.{camera}": image.numpy() for camera, image in observations.images.items()}
    arrays |= {"state": observations.state.numpy(), "elapsed": observations.elapsed.numpy()}
    for part in np.array_split(np.arange(len(observations)), 2):
        for name, room in actor.waiting.rows(len(part)).items():
            room[:] = arrays[name][part]
        actor.waiting.add(len(part))


def acted(actor, observations, noise, explore, order=None):
    wait(actor, observations)
    order = list(range(len(observations))) if order is None else order
    answer = actor.begin(order, [observations.instructions[row] for row in order], noise[order].numpy(), explore[order].numpy())
    return answer.decisions


def numbers(decisions: Decisions):
    return {"actions": decisions.actions, "logprob": decisions.logprob, "value": decisions.value, **decisions.trace}


def same(one: Decisions, other: Decisions, rows=slice(None)):
    return all(torch.equal(tensor[rows], numbers(other)[name][rows]) for name, tensor in numbers(one).items())


def apart(one: Decisions, other: Decisions):
    return max(float((tensor.double() - numbers(other)[name].double()).abs().max()) for name, tensor in numbers(one).items())


@every_case
def test_without_padding_it_answers_as_the_policy_does_bit_for_bit(case):
    policy = make(case)
    actor = Actor(policy, CPU, "eager", largest=8)
    actor.prepare()
    assert not actor.sizes and not actor.beside_host
    for rows, seed in ((5, 0), (1, 1), (8, 2), (3, 3)):
        given = asked(policy, rows, seed)
        assert same(acted(actor, *given), policy.act(*given))


@every_case
def test_rows_are_answered_in_the_order_that_is_asked_for(case):
    policy = make(case)
    observations, noise, explore = asked(policy, 4)
    order = [2, 0, 3, 1]
    expected = policy.act(vla.rows_of(observations, order), noise[order], explore[order])
    for padded in (False, True):
        actor = Actor(policy, CPU, "eager", largest=4, padded=padded)
        actor.prepare()
        assert same(acted(actor, observations, noise, explore, order), expected)


@every_case
def test_padding_changes_no_bit_of_a_batch_of_its_size(case):
    """A batch of 5 is computed as one of 8 whose last three rows repeat the first."""
    policy = make(case)
    actor = Actor(policy, CPU, "eager", largest=8, padded=True)
    actor.prepare()
    assert actor.sizes == (1, 2, 4, 8) and set(actor.measured) == set(actor.sizes)
    observations, noise, explore = asked(policy, 5)
    filled = [0, 1, 2, 3, 4, 0, 0, 0]
    expected = policy.act(vla.rows_of(observations, filled), noise[filled], explore[filled])
    acted(actor, *asked(policy, 8, seed=9))  # what the buffers held before must not matter
    assert same(acted(actor, observations, noise, explore), expected, rows=slice(5))


@pytest.mark.parametrize("case", ["mini_vla", "tokens", "actor_critic"])
def test_padding_changes_hardly_anything_at_every_number_of_rows(case):
    policy = make(case)
    actor = Actor(policy, CPU, "eager", largest=13, padded=True)
    actor.prepare()
    for rows in range(1, 14):
        given = asked(policy, rows, seed=rows)
        assert apart(acted(actor, *given), policy.act(*given)) < 1e-5


def test_decisions_of_one_batch_stay_while_the_next_one_waits():
    policy = make("mini_vla")
    actor = Actor(policy, CPU, "eager", largest=4, padded=True)
    actor.prepare()
    first, second = asked(policy, 3, seed=1), asked(policy, 3, seed=2)
    decided = acted(actor, *first)
    wait(actor, second[0])
    assert apart(decided, policy.act(*first)) < 1e-5


def test_words_of_another_length_than_the_first_ones_are_refused_where_addresses_are_fixed():
    policy = make("pi0")
    actor = Actor(policy, CPU, "eager", largest=2, padded=True)
    actor.prepare()
    policy.processor.prompts._how = policy.processor.prompts._how.model_copy(update={"length": 50})
    policy.processor.prompts._known.clear()
    with pytest.raises(ValueError, match=r"words.tokens has the shape \[2, 50\]"):
        acted(actor, *asked(policy, 2))


class Reading(type(make("actor_critic"))):  # type: ignore[misc]
    """A policy of a user that reads instructions within `act`."""

    def act(self, observations: Observations, noise, explore):
        assert all(isinstance(text, str) for text in observations.instructions)
        return super().act(observations, noise, explore)


class Waits(type(make("actor_critic"))):  # type: ignore[misc]
    def act(self, observations: Observations, noise, explore):
        if bool(explore.any()):
            noise = noise + 0
        return super().act(observations, noise, explore)


@pytest.mark.parametrize(("kind", "why"), [(Reading, "reads the instructions"), (Waits, "needed on the host")])
def test_a_policy_that_cannot_be_recorded_acts_eagerly_and_a_notice_says_why(kind, why, monkeypatch: pytest.MonkeyPatch):
    policy = make("actor_critic")
    policy.__class__ = kind
    with pytest.raises(NotCapturable, match=why):
        Actor(policy, CPU, "graphs", largest=2).prepare()
    monkeypatch.setattr(module, "choose_way", lambda *_: "graphs")
    actor = make_actor(policy, CPU, "auto", largest=2)
    assert not actor.sizes and len(actor.notices) == 1 and why in actor.notices[0] and kind.__name__ in actor.notices[0]
    given = asked(policy, 2)
    assert same(acted(actor, *given), policy.act(*given))
    with pytest.raises(RecipeError, match=f"policy.inference=graphs cannot be had for {kind.__name__}.*{why}.*policy.inference=eager"):
        make_actor(policy, CPU, "graphs", largest=2)


class Large(type(make("actor_critic"))):  # type: ignore[misc]
    """Needs more memory than there is for more than `most` rows."""

    most = 5

    def act(self, observations: Observations, noise, explore):
        if len(observations) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().act(observations, noise, explore)


def test_where_memory_is_short_batches_are_smaller_and_a_notice_says_so():
    policy = make("actor_critic")
    policy.__class__ = Large
    actor = Actor(policy, CPU, "eager", largest=12, padded=True)
    actor.prepare()
    assert actor.sizes == (1, 2, 4) and actor.largest == 4
    assert actor.notices[-1] == "cpu has too little memory for 8 decisions at once: a batch has at most 4"
    policy.most = 0
    with pytest.raises(RecipeError, match="single decision"):
        Actor(policy, CPU, "eager", largest=2, padded=True).prepare()


def test_what_the_setting_means():
    gpu = torch.device("cuda")
    assert [choose_way("auto", device, moves) for device in (CPU, gpu) for moves in (False, True)] == ["eager", "eager", "graphs", "eager"]
    assert choose_way("compile", CPU, False) == "compile"
    with pytest.raises(RecipeError, match=r"policy.inference=graphs .* cpu"):
        choose_way("graphs", CPU, False)
    with pytest.raises(RecipeError, match=r"engine\.offload=true"):
        choose_way("graphs", gpu, True)


@pytest.mark.slow
def test_compiled_code_answers_as_the_policy_does():
    policy = make("mini_vla")
    actor = make_actor(policy, CPU, "compile", largest=2)
    assert actor.way == "compile" and actor.sizes == (1, 2)
    for rows in (1, 2):
        given = asked(policy, rows, seed=rows)
        assert apart(acted(actor, *given), policy.act(*given)) < 1e-4
    with torch.no_grad():
        for parameter in policy.parameters():  # new weights arrive in the same tensors
            parameter.mul_(1.1)
    given = asked(policy, 2, seed=5)
    assert apart(acted(actor, *given), policy.act(*given)) < 1e-4
