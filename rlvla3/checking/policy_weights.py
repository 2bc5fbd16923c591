"""Checks of a policy's weights: what gradients reach, what is published and saved, how FSDP may use it, and its memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlvla3.checking.evidence import NotApplicable
from rlvla3.checking.finding import Finding, fact, warning
from rlvla3.checking.policy_trial import (
    ROWS,
    PolicyTrial,
    apart,
    largest_difference,
    raised,
    same_bits,
    shown,
)
from rlvla3.errors import some_of
from rlvla3.links.weights.layout import WeightLayout
from rlvla3.observability.formatting import size
from rlvla3.policies.registry import build_policy, make_policy, policy_options, read_checkpoint_config

NAMED = 3
"""Tensors that a finding names."""

NAMED_APART = 50
"""So many parameters are examined one by one to say which of them is to blame."""


def parameters(trial: PolicyTrial) -> Iterator[Finding]:
    policy = trial.policy
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    actor, critic = policy.actor_parameters(), policy.critic_parameters()
    unknown = [parameter for parameter in (*actor, *critic) if id(parameter) not in names]
    if unknown:
        yield Finding(f"{len(unknown)} parameters are none of the policy's own: hold every part as an attribute that is an nn.Module or an nn.Parameter")
    listed = {part: {id(parameter) for parameter in found} for part, found in (("actor", actor), ("critic", critic))}
    both = [names[one] for one in listed["actor"] & listed["critic"] if one in names]
    if both:
        yield Finding(f"{some_of(both, NAMED)} belong to actor_parameters() and to critic_parameters(): each is trained by one optimizer")
    trainable = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    of_one = {names[one] for one in listed["actor"] | listed["critic"] if one in names}
    if left := sorted(trainable - of_one):
        yield Finding(f"{some_of(left, NAMED)} can be trained, and belong neither to the actor nor to the critic: freeze them, or list them")
    if frozen := sorted(of_one - trainable):
        yield Finding(f"{some_of(frozen, NAMED)} belong to the actor or the critic, and are frozen: list what can be trained alone")
    count = {
        "trained": sum(p.numel() for p in policy.parameters() if p.requires_grad),
        "frozen": sum(p.numel() for p in policy.parameters() if not p.requires_grad),
    }
    yield fact(f"{count['trained']:,} numbers are trained, {count['frozen']:,} are frozen")


def actor(trial: PolicyTrial) -> Iterator[Finding]:
    weight = torch.randn(trial.evaluation.logprob.shape, generator=torch.Generator().manual_seed(0))
    yield from _gradients(
        trial, (trial.evaluate().logprob * weight).sum(), "the log-probs", "actor", lambda: trial.evaluate().logprob, trial.policy.actor_parameters()
    )


def critic(trial: PolicyTrial) -> Iterator[Finding]:
    policy, evaluation = trial.policy, trial.evaluate()
    features = evaluation.features
    weight = torch.randn(ROWS, generator=torch.Generator().manual_seed(0))
    loss = (policy.value_of(features) * weight).sum()
    yield from _gradients(trial, loss, "value_of", "critic", lambda: policy.value_of(features), policy.critic_parameters())
    if any(tensor.requires_grad for tensor in features.values()):
        yield Finding("the features carry a graph: detach them, because they are kept for later epochs of the critic")
    elif evaluation.value.requires_grad:
        reached = torch.autograd.grad(evaluation.value.sum(), policy.actor_parameters(), allow_unused=True)
        if count := sum(gradient is not None for gradient in reached):
            yield fact(f"in evaluate it also reaches {count} tensors of the actor")


def _gradients(trial: PolicyTrial, loss: Tensor, what: str, part: str, again: Callable[[], Tensor], own: Sequence[nn.Parameter]) -> Iterator[Finding]:
    """Findings where the gradient of `loss` does not reach all of `own`, or reaches others. again: computes what the loss was made of."""
    named = {name: parameter for name, parameter in trial.policy.named_parameters() if parameter.requires_grad}
    if not loss.requires_grad:
        yield Finding(f"{what} have no gradient at all: compute them without torch.no_grad() and without detach()")
        return
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True), strict=True))
    reached = {name for name, gradient in gradients.items() if gradient is not None and gradient.any()}
    wanted = {id(parameter) for parameter in own}
    ours = {name for name, parameter in named.items() if id(parameter) in wanted}
    if others := sorted(reached - ours):
        yield Finding(f"the gradient of {what} reaches {some_of(others, NAMED)}, which {part}_parameters() does not list: detach what it is computed from")
    silent = {name: named[name] for name in named if name in ours - reached}
    if cut := _that_matter(silent, again, 10 * trial.rounding):
        yield Finding(f"{what} depend on {some_of(cut, NAMED)}, and their gradient does not reach them: do not detach what lies between")
    elif silent:
        numbers = sum(parameter.numel() for parameter in silent.values())
        yield warning(
            f"{what} do not depend on {some_of(list(silent), NAMED)}: these {numbers:,} trainable numbers stay as they are. Freeze them to save memory, "
            f"if nothing else trains them"
        )
    yield fact(f"it reaches all {len(ours)} tensors of the {part} and no others")


def _that_matter(parameters: Mapping[str, nn.Parameter], compute: Callable[[], Tensor], least: float) -> list[str]:
    """The parameters whose change changes what is computed, by more than `least`."""
    if not parameters or not _changes(parameters, compute, least):
        return []
    return [name for name in list(parameters)[:NAMED_APART] if _changes({name: parameters[name]}, compute, least)] or list(parameters)


@torch.no_grad()
def _changes(parameters: Mapping[str, nn.Parameter], compute: Callable[[], Tensor], least: float) -> bool:
    before, kept = compute(), {name: parameter.clone() for name, parameter in parameters.items()}
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters.values():
        parameter.add_((0.1 * torch.randn(parameter.shape, generator=generator)).to(parameter))
    changed = apart(compute(), before) > least
    for name, parameter in parameters.items():
        parameter.copy_(kept[name])
    return changed


def cloning(trial: PolicyTrial) -> Iterator[Finding]:
    trial.need_answers()
    policy, experts = trial.policy, trial.expert_actions(ROWS)

    def loss_of(seed: int = 0) -> Tensor:
        return policy.clone_loss(trial.observations, experts, torch.Generator().manual_seed(seed))

    before = torch.get_rng_state()
    try:
        loss, again = loss_of(), loss_of()
    except NotImplementedError as error:
        raise NotApplicable("it has no clone_loss") from error
    if loss.dim() or not loss.isfinite():
        yield Finding(f"the loss is {loss.tolist()!r:.60}: it must be one finite number")
        return
    if not torch.equal(loss, again) or not torch.equal(torch.get_rng_state(), before):
        yield Finding("the loss draws random numbers of its own: take all of them from the generator that it is given")
    critics = {id(parameter) for parameter in policy.critic_parameters()}
    named = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
    if not loss.requires_grad:
        yield Finding("the loss has no gradient: cloning would change nothing")
        return
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    reached = [name for (name, parameter), gradient in zip(named.items(), gradients, strict=True) if gradient is not None and id(parameter) in critics]
    if reached:
        yield Finding(f"the loss reaches {some_of(reached, NAMED)} of the critic: cloning trains the actor alone")


def published(trial: PolicyTrial) -> Iterator[Finding]:
    policy = trial.policy
    sent = policy.published()
    named = dict(policy.named_parameters())
    if missing := [name for name, parameter in named.items() if parameter.requires_grad and name not in sent]:
        yield Finding(f"published() leaves out {some_of(missing, NAMED)}, which can be trained: a generator would act with old weights")
    if frozen := [name for name, parameter in named.items() if not parameter.requires_grad and name in sent]:
        needless = size(sum(sent[name].nbytes for name in frozen))
        yield Finding(f"published() sends {some_of(frozen, NAMED)}, which are frozen: leave them out, because every version is {needless} larger")
    receiver = trial.build(seed=1)
    with torch.no_grad():
        for name, parameter in receiver.named_parameters():
            parameter.copy_(parameter + 0.1 if parameter.requires_grad else named[name])
        for name, tensor in receiver.published().items():
            tensor.copy_(sent[name])
    decided = trial.act(receiver)
    if not missing and not same_bits(decided, trial.decisions):
        yield Finding(
            f"a policy that received what published() gives acts differently, by {shown(largest_difference(decided, trial.decisions))}: "
            f"what fit_normalisation sets must be in registered buffers, and the tensors of published() must be the policy's own, not copies"
        )
    yield fact(f"{len(sent)} tensors, {_amount(WeightLayout(sent).size)}")


def saving(trial: PolicyTrial) -> Iterator[Finding]:
    policy, config = trial.policy, trial.config
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "policy"
        policy.save(folder, config.name)
        saved = read_checkpoint_config(folder)
        options = policy_options(saved.config(folder), trial.spaces)
        if options != policy.options:
            yield Finding(f"config.json holds the options {options!r:.200}, but the policy has {policy.options!r:.200}: save all that it was built with")
        again = make_policy(saved.config(folder), saved.spaces).eval()
    own, loaded = policy.state_dict(), again.state_dict()
    if wrong := [name for name in own.keys() | loaded.keys() if not _same_tensor(own.get(name), loaded.get(name))]:
        yield Finding(f"{some_of(sorted(wrong), NAMED)} came back different: save and restore all of the state")
    decided = trial.act(again)
    if not wrong and not same_bits(decided, trial.decisions):
        yield Finding(
            f"the saved policy acts differently when it is loaded, by {shown(largest_difference(decided, trial.decisions))}: keep everything that "
            f"a decision depends on in parameters, registered buffers or options"
        )
    yield fact(f"{len(own)} tensors, and the same decisions to the last bit")


def _same_tensor(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.dtype == other.dtype and torch.equal(one, other)


def layers(trial: PolicyTrial) -> Iterator[Finding]:
    """FSDP gathers a layer's weights when the layer is called, and frees them after it. Here they are NaN in between."""
    blocks = trial.policy.sharded_blocks()
    if not blocks:
        raise NotApplicable("it has no nn.ModuleList")
    with _gathered_only_when_called(blocks) as uncalled, torch.no_grad():
        decided = trial.act(trial.policy)
        trial.evaluate()
    if not same_bits(decided, trial.decisions):
        yield Finding("the weights of a layer are used without calling the layer: call it as a module, layer(x), because FSDP gathers its weights only then")
    if uncalled:
        yield warning(f"{len(uncalled)} of {len(blocks)} layers were never called")
    yield fact(f"{len(blocks)} layers")


@contextmanager
def _gathered_only_when_called(blocks: Sequence[nn.Module]) -> Iterator[set[nn.Module]]:
    """Within the block the weights of each layer are NaN while it is not at work. Yields the layers that have not been called."""
    weights = {block: {p: p.detach().clone() for p in block.parameters() if p.is_floating_point()} for block in blocks}
    uncalled = set(blocks)

    def gather(block: nn.Module, _: Any) -> None:
        uncalled.discard(block)
        for parameter, real in weights[block].items():
            parameter.data.copy_(real)

    def free(block: nn.Module, *_: Any) -> None:
        for parameter in weights[block]:
            parameter.data.fill_(float("nan"))

    hooks = [hook for block in blocks for hook in (block.register_forward_pre_hook(gather), block.register_forward_hook(free))]
    try:
        for block in blocks:
            free(block)
        yield uncalled
    finally:
        for hook in hooks:
            hook.remove()
        for block in blocks:
            for parameter, real in weights[block].items():
                parameter.data.copy_(real)


def memory(trial: PolicyTrial) -> Iterator[Finding]:
    policy = trial.policy
    try:
        with torch.device("meta"):
            build_policy(trial.config, trial.spaces)
    except Exception as error:  # whatever the policy raises is what was found
        yield Finding(
            f"it cannot be built without memory: {raised(error)}. Memory is planned from a policy on torch.device('meta'): compute nothing from weights"
        )
    trained = sum(parameter.nbytes for parameter in policy.parameters() if parameter.requires_grad)
    weights = sum(tensor.nbytes for tensor in (*policy.parameters(), *policy.buffers()))
    decided = (*trial.decisions.trace.values(), *(getattr(trial.decisions, name) for name in ("actions", "logprob", "value")))
    yield fact(
        f"weights {_amount(weights)}, gradients and moments {_amount(3 * trained)}, a decision {_amount(_bytes(decided) / ROWS)}, "
        f"its features {_amount(_bytes(trial.evaluation.features.values()) / ROWS)}"
    )


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _amount(number: float) -> str:
    """Bytes for a message."""
    if number < 2**10:
        return f"{number:.0f} bytes"
    return size(number) if number >= 2**20 else f"{number / 2**10:.1f} KiB"
