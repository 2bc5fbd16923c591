"""An actor on the CPU: it answers as the policy does, whatever the sizes, the padding, the order and what its buffers held before."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlvla3.config import PolicyConfig
from rlvla3.errors import RecipeError
from rlvla3.inference import actor as module
from rlvla3.inference.actor import Actor, make_actor
from rlvla3.inference.choice import choose_way
from rlvla3.inference.graphs import NotCapturable
from rlvla3.policies.base import Observations
from rlvla3.policies.registry import make_policy
from tests.support import vla
from tests.support.acting import acted, apart, asked, make, same, wait

torch.set_num_threads(1)
CPU = torch.device("cpu")
every_case = pytest.mark.parametrize("case", ["flow", "tokens", "discrete", "pi0", "pi05_state"])


@every_case
def test_without_padding_it_answers_as_the_policy_does_bit_for_bit(case):
    policy = make(case)
    actor = Actor(policy, CPU, "eager", largest=8)
    actor.prepare()
    assert not actor.sizes and not actor.beside_host
    for rows, seed in ((5, 0), (1, 1), (8, 2), (3, 3)):
        given = asked(policy, rows, seed)
        assert same(acted(actor, given), policy.act(*given))


@every_case
def test_rows_are_answered_in_the_order_that_is_asked_for(case):
    policy = make(case)
    observations, noise, explore = asked(policy, 4)
    order = [2, 0, 3, 1]
    expected = policy.act(vla.rows_of(observations, order), noise[order], explore[order])
    for padded in (False, True):
        actor = Actor(policy, CPU, "eager", largest=4, padded=padded)
        actor.prepare()
        assert same(acted(actor, (observations, noise, explore), order), expected)


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
    acted(actor, asked(policy, 8, seed=9))  # what the buffers held before must not matter
    assert same(acted(actor, (observations, noise, explore)), expected, rows=slice(5))


@pytest.mark.parametrize("case", ["flow", "tokens", "discrete"])
def test_padding_changes_hardly_anything_at_every_number_of_rows(case):
    policy = make(case)
    actor = Actor(policy, CPU, "eager", largest=13, padded=True)
    actor.prepare()
    for rows in range(1, 14):
        given = asked(policy, rows, seed=rows)
        assert apart(acted(actor, given), policy.act(*given)) < 1e-5


def test_decisions_of_one_batch_stay_while_the_next_one_waits():
    policy = make("flow")
    actor = Actor(policy, CPU, "eager", largest=4, padded=True)
    actor.prepare()
    first, second = asked(policy, 3, seed=1), asked(policy, 3, seed=2)
    decided = acted(actor, first)
    wait(actor, second[0])
    assert apart(decided, policy.act(*first)) < 1e-5


def test_words_of_another_length_than_the_first_ones_are_refused_where_addresses_are_fixed():
    policy = make("pi0")
    actor = Actor(policy, CPU, "eager", largest=2, padded=True)
    actor.prepare()
    policy.processor.prompts._how = policy.processor.prompts._how.model_copy(update={"length": 50})
    policy.processor.prompts._known.clear()
    with pytest.raises(ValueError, match=r"words.tokens has the shape \[2, 50\]"):
        acted(actor, asked(policy, 2))


class Reading(type(make("discrete"))):  # type: ignore[misc]
    """A policy of a user that reads instructions within `act`."""

    def act(self, observations: Observations, noise, explore):
        assert all(isinstance(text, str) for text in observations.instructions)
        return super().act(observations, noise, explore)


class Waits(type(make("discrete"))):  # type: ignore[misc]
    def act(self, observations: Observations, noise, explore):
        if bool(explore.any()):
            noise = noise + 0
        return super().act(observations, noise, explore)


@pytest.mark.parametrize(("kind", "why"), [(Reading, "reads the instructions"), (Waits, "needed on the host")])
def test_a_policy_that_cannot_be_recorded_acts_eagerly_and_a_notice_says_why(kind, why, monkeypatch: pytest.MonkeyPatch):
    policy = make("discrete")
    policy.__class__ = kind
    with pytest.raises(NotCapturable, match=why):
        Actor(policy, CPU, "graphs", largest=2).prepare()
    monkeypatch.setattr(module, "choose_way", lambda *_: "graphs")
    actor = make_actor(policy, CPU, "auto", largest=2)
    assert not actor.sizes and len(actor.notices) == 1 and why in actor.notices[0] and kind.__name__ in actor.notices[0]
    given = asked(policy, 2)
    assert same(acted(actor, given), policy.act(*given))
    with pytest.raises(RecipeError, match=f"policy.inference=graphs is not possible for {kind.__name__}.*{why}.*policy.inference=eager"):
        make_actor(policy, CPU, "graphs", largest=2)


class Large(type(make("discrete"))):  # type: ignore[misc]
    """Needs more memory than there is for more than `most` rows."""

    most = 5

    def act(self, observations: Observations, noise, explore):
        if len(observations) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().act(observations, noise, explore)


def test_where_memory_is_short_batches_are_smaller_and_a_notice_says_so():
    policy = make("discrete")
    policy.__class__ = Large
    actor = Actor(policy, CPU, "eager", largest=12, padded=True)
    actor.prepare()
    assert actor.sizes == (1, 2, 4) and actor.largest == 4
    assert actor.notices[-1] == "cpu has too little memory for 8 decisions at once: a batch has at most 4"
    policy.most = 0
    with pytest.raises(RecipeError, match="single decision"):
        Actor(policy, CPU, "eager", largest=2, padded=True).prepare()


class Casts(TorchDispatchMode):
    """Counts the casts of each parameter."""

    def __init__(self, policy) -> None:
        super().__init__()
        self._names, self.of = {id(parameter): name for name, parameter in policy.named_parameters()}, Counter[str]()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None):
        with self:
            parts = function.decompose(*arguments, **(named or {}))
        if parts is not NotImplemented:
            return parts
        if function.name() == "aten::_to_copy" and id(arguments[0]) in self._names:
            self.of[self._names[id(arguments[0])]] += 1
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("padded", [False, True])
def test_a_policy_in_bf16_casts_each_weight_once_a_batch_and_has_log_probs_in_fp32(padded):
    policy: Any = make_policy(PolicyConfig(name="pi0", chunk=4, size="tiny", options={"precision": "bf16"}), vla.ROBOT).eval()
    actor = Actor(policy, CPU, "eager", largest=2, padded=padded)
    actor.prepare()
    given = asked(policy, 2)
    with Casts(policy) as alone:
        expected = policy.act(*given)
    with Casts(policy) as casts:
        decisions = acted(actor, given)
    matrices = {name for name, parameter in policy.network.named_parameters() if parameter.requires_grad and parameter.dim() == 2}
    layers = {f"network.{name}" for name in matrices if ".layers." in name}
    assert {casts.of[name] for name in layers} == {1} and max(alone.of[name] for name in layers) > 1
    assert same(decisions, expected) and decisions.logprob.dtype == decisions.actions.dtype == torch.float32


def test_what_the_setting_means():
    assert [choose_way("auto", device, moves) for device in ("cpu", "cuda") for moves in (False, True)] == ["eager", "eager", "graphs", "eager"]
    assert choose_way("compile", "cpu", False) == "compile"
    with pytest.raises(RecipeError, match=r"policy.inference=graphs .* cpu"):
        choose_way("graphs", "cpu", False)
    with pytest.raises(RecipeError, match=r"engine\.offload=true"):
        choose_way("graphs", "cuda", True)


@pytest.mark.slow
def test_compiled_code_answers_as_the_policy_does():
    policy = make("torque")
    actor = make_actor(policy, CPU, "compile", largest=2)
    assert actor.way == "compile" and actor.sizes == (1, 2)
    for rows in (1, 2):
        given = asked(policy, rows, seed=rows)
        assert apart(acted(actor, given), policy.act(*given)) < 1e-4
    with torch.no_grad():
        for parameter in policy.parameters():  # new weights arrive in the same tensors
            parameter.mul_(1.1)
    given = asked(policy, 2, seed=5)
    assert apart(acted(actor, given), policy.act(*given)) < 1e-4
