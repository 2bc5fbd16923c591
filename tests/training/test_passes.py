"""How training makes its passes: their number format, checkpointed blocks, compilation, and no wait for the device within a micro-batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlvla3.config import PolicyConfig
from rlvla3.errors import RecipeError
from rlvla3.policies.registry import policy_options
from rlvla3.policies.running_normalisation import COUNTED
from rlvla3.training.learner import Learner
from rlvla3.training.passes import checkpoint_blocks
from rlvla3.training.ranks import SINGLE_RANK
from rlvla3.types import ActionSpace, Spaces
from tests.support.learners import UPDATE, make_learner
from tests.support.ranks import SEEING, Done, Work, do, make_policy, make_rollouts, run_update
from tests.support.thorough import thorough
from tests.support.tiny import TinyPolicy, micro_batch, pairs, tiny_recipe, tiny_rollouts, write_episode
from tests.support.vla import FAMILIES, ROBOT, config_of, make, noise_of, observe

SEEING_STATE = Spaces({}, 3, SEEING.action, 6)
MINI_VLA = Work("mini_vla", exact=False, training={"epochs": 2, "steps": 1, "micro_batch": 5}, updates=2)


def done(**training: Any) -> Done:
    """What comes of MINI_VLA with further settings of training."""
    return do(SINGLE_RANK, Work("mini_vla", exact=False, training=MINI_VLA.training | training, updates=2))


def distance(done: Done, reference: Done) -> float:
    """Of the first gradients."""
    ours, theirs = done.gradients[0], reference.gradients[0]
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


# Number formats


def test_bf16_passes_come_near_and_leave_everything_else_in_fp32() -> None:
    whole, low = done(precision="fp32"), done(precision="bf16")
    assert 1e-5 < distance(low, whole) < 0.05
    recipe, policy = Work("mini_vla", exact=False, training={"precision": "bf16"}).recipe(1), make_policy("mini_vla", exact=False)
    learner = Learner(policy, recipe, make_rollouts("mini_vla"), "cpu")
    kinds: set[torch.dtype] = set()

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        kinds.update(parameter.grad.dtype for group in optimizer.param_groups for parameter in group["params"] if parameter.grad is not None)

    learner.optimizer.register_step_pre_hook(note)
    run_update(learner, recipe, 0, MINI_VLA)
    published = [tensor for name, tensor in learner.parallel.published().items() if not name.endswith(COUNTED)]  # what is only counted with is fp64
    kinds |= {tensor.dtype for tensor in (*policy.parameters(), *learner.parameter_state().values(), *published)}
    assert kinds == {torch.float32}


def test_on_a_cpu_auto_is_fp32_to_the_last_bit() -> None:
    own, fp32 = done(), done(precision="fp32")
    assert {name: array.tobytes() for name, array in own.weights.items()} == {name: array.tobytes() for name, array in fp32.weights.items()}


def test_in_bf16_act_and_evaluate_agree_and_log_probs_are_fp32() -> None:
    policy = make_policy("mini_vla", exact=False).eval()
    observations = policy.tokenise(observe(Spaces(SEEING.cameras, SEEING.state, SEEING.action, SEEING.max_steps, ("reach", "push")), 4))
    explore, noise = torch.ones(4, dtype=torch.bool), noise_of(policy, 4)
    exact = policy.act(observations, noise, explore)
    policy.compute_in("bf16", torch.device("cpu"))
    decisions = policy.act(observations, noise, explore)
    evaluation = policy.evaluate(observations, decisions.actions, decisions.trace)
    assert {tensor.dtype for tensor in (decisions.actions, decisions.logprob, decisions.value, evaluation.logprob, evaluation.value)} == {torch.float32}
    assert not torch.equal(decisions.actions, exact.actions)
    torch.testing.assert_close(evaluation.logprob, decisions.logprob, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("on_gpu", "mini_vla"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_on_a_gpu_for_those_who_can(on_gpu: bool, mini_vla: str) -> None:
    seeing = Spaces({"front": (64, 64, 3)}, 3, ActionSpace("continuous", 2), 6)
    assert policy_options(PolicyConfig(name="mini_vla"), seeing).precision_of("auto", on_gpu) == mini_vla
    assert policy_options(PolicyConfig(name="actor_critic", chunk=1), SEEING_STATE).precision_of("auto", on_gpu) == "fp32"
    assert policy_options(config_of("pi0", precision="fp32"), ROBOT).precision_of("auto", on_gpu) == "fp32"
    assert policy_options(config_of("pi0"), ROBOT).precision_of("auto", on_gpu) == mini_vla


def test_bf16_is_refused_for_those_who_cannot() -> None:
    with pytest.raises(RecipeError, match=r"training\.precision=bf16, and this policy computes in fp32 only"):
        TinyPolicy().compute_in("bf16", torch.device("cpu"))


@pytest.mark.parametrize("setting", ["fp32", "bf16"])
def test_a_pretrained_policys_own_precision_decides(setting: str) -> None:
    policy = make("pi0")  # its own is auto
    with pytest.raises(RecipeError, match=rf"set policy\.options\.precision={setting}, and leave training\.precision out"):
        policy.compute_in(setting, torch.device("cpu"))
    same = make("pi0", precision=setting)
    same.compute_in(setting, torch.device("cpu"))
    same.compute_in("auto", torch.device("cpu"))
    assert same.precision == setting


def test_the_old_place_of_gradient_checkpointing_is_refused_with_the_new_one() -> None:
    with pytest.raises(RecipeError, match=r"set training\.gradient_checkpointing"):
        policy_options(config_of("pi0", gradient_checkpointing=True), ROBOT)


# Checkpointed blocks


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_blocks_change_memory_and_nothing_else(family: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        policy = make(family, train=["vision", "language", "expert"])
        observations = policy.tokenise(observe(ROBOT, 2))
        decisions = policy.act(observations, noise_of(policy, 2), torch.ones(2, dtype=torch.bool))
        if checkpointing:
            checkpoint_blocks(policy)
        policy.evaluate(observations, decisions.actions, decisions.trace).logprob.sum().backward()
        gradients.append([parameter.grad for parameter in policy.network.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_a_setting_checkpoints_the_blocks_of_any_policy() -> None:
    calls = []
    for checkpointing in (False, True):
        policy = make_policy("mini_vla", exact=False)
        for module in policy.modules():
            if isinstance(module, torch.nn.GELU):
                module.register_forward_hook(lambda *_: calls.append(checkpointing))  # noqa: B023
        recipe = Work("mini_vla", exact=False, training=MINI_VLA.training | {"gradient_checkpointing": checkpointing}).recipe(1)
        learner = Learner(policy, recipe, make_rollouts("mini_vla"), "cpu")
        learner.credit.statistics.add_update([-1.0, 0.5, 2.0])
        run_update(learner, recipe, 0, MINI_VLA)
    assert calls.count(True) == 2 * calls.count(False) > 0
    plain, kept = done(), done(gradient_checkpointing=True)
    for name, array in plain.weights.items():
        np.testing.assert_allclose(kept.weights[name], array, rtol=0, atol=1e-6)


# Compilation


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """torch.compile without its compiler: what is traced runs as it is."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("further", [{"precision": "bf16"}, *thorough({})])
def test_a_compiled_pass_is_one_graph_and_gives_the_same_update(traced: Any, further: dict[str, Any]) -> None:
    compiled, plain = done(compile=True, **further), done(**further)
    assert not traced["graph_break"] and 1 <= traced["stats"]["unique_graphs"] <= 4
    assert distance(compiled, plain) < (1e-6 if not further else 1e-2)


@pytest.mark.slow
def test_a_compiler_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    with pytest.raises(RecipeError, match=r"no C\+\+ compiler.*Set training\.compile=false"):
        done(compile=True)


# No wait


class Waits(TorchDispatchMode):
    """Names the operations that would make the host wait for a GPU, were the tensors there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name
        masks = args[1] if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_") else ()
        if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal") or any(
            mask is not None and mask.dtype == torch.bool for mask in masks
        ):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


ALGORITHMS = {
    "gae": {},
    "grpo": {"advantage": "grpo", "group_size": 2},
    "soft": {"correction": "soft", "entropy": 0.1},
    "reference": {"reference": {"weight": 0.1}},
    "decoupled": {"correction": "decoupled", "ratio": "dimension", "dual_clip": 3.0},
    "vtrace": {"correction": "vtrace"},
}


def stale_rollouts() -> Any:
    rollouts = tiny_rollouts()
    for ticket in UPDATE:
        write_episode(rollouts, TinyPolicy(), ticket, version=ticket % 2, success=ticket % 3 > 0)
    return rollouts


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_host_waits_for_the_device_once_a_step_and_never_within_a_micro_batch(name: str) -> None:
    training = {"critic": {"epochs": 2, "clip": 0.2, "batch": 5}}
    learner = make_learner(tiny_recipe(algorithm=ALGORITHMS[name], training=training), stale_rollouts())
    for group in learner.optimizer.param_groups:
        group["fused"] = True  # as on a GPU
    learner.begin_update(1, UPDATE)
    for epoch in range(2):
        for step in range(2):
            batch = micro_batch(pairs(learner.rollouts, UPDATE[2 * step : 2 * step + 2]), epoch=epoch, step=step)
            if name == "vtrace":  # its targets are computed on the host, once an episode
                learner.credit.compute(batch.tickets, batch.rows)
            with Waits() as within:
                learner.accumulate(batch)
            assert within.found == []
            with Waits() as closing:
                learner.step()
            assert closing.found == []  # but for the one `tolist`, of which no operation is told
    with Waits() as replay:
        learner.critic_features.train(1, 2)
    assert len(replay.found) <= 1


@pytest.mark.parametrize("kind", ["mini_vla", *FAMILIES])
def test_the_policies_do_not_wait_either(kind: str) -> None:
    work = Work(kind, exact=False, options={"train": ["expert"]} if kind in FAMILIES else {}, training={"micro_batch": 5})
    recipe = work.recipe(1)
    learner = Learner(make_policy(kind, False, **work.options), recipe, make_rollouts(kind), "cpu")
    learner.credit.statistics.add_update([-1.0, 0.5, 2.0])
    accumulate: Callable[..., None] = learner.accumulate
    found = []

    def watched(batch: Any) -> None:
        with Waits() as waits:
            accumulate(batch)
        found.extend(waits.found)

    learner.accumulate = watched  # type: ignore[method-assign]
    run_update(learner, recipe, 0, work)
    assert found == []


def test_a_wait_is_noticed() -> None:
    """The control of the two tests above."""
    ones = torch.ones(3)
    for waits in (lambda: ones.sum().item(), lambda: ones[ones > 0], lambda: ones.nonzero(), lambda: bool(ones.any()), lambda: ones.masked_select(ones > 0)):
        with Waits() as found:
            waits()
        assert found.found


# AdamW


def test_the_state_of_a_plain_adamw_resumes_with_a_fused_one() -> None:
    recipe = tiny_recipe(training={"learning_rate": 1e-2})
    first = make_learner(recipe)
    run_tiny(first, 0)
    for fused in (True, None):
        resumed = make_learner(recipe, first.rollouts, policy=TinyPolicy(seed=5))
        for group in resumed.optimizer.param_groups:
            group["fused"] = fused
        resumed.optimizer.defaults["fused"] = fused
        resumed.policy.load_state_dict(copy.deepcopy(first.policy.state_dict()))
        resumed.load_state_dict(copy.deepcopy(first.state_dict()))
        resumed.load_parameter_state(copy.deepcopy(first.parameter_state()))
        expected = copy.deepcopy(first)
        for each in (expected, resumed):
            run_tiny(each, 1)
        assert resumed.parameter_state().keys() == expected.parameter_state().keys()
        for ours, theirs in zip(resumed.policy.parameters(), expected.policy.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def run_tiny(learner: Learner, update: int) -> None:
    learner.begin_update(update, UPDATE)
    learner.accumulate(micro_batch(pairs(learner.rollouts, UPDATE)))
    learner.step()
    learner.finish_update()
