"""Checks of what a policy answers: shapes and types, agreement of act and evaluate, and what may change a decision."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvla3.checking.evidence import NotApplicable
from rlvla3.checking.finding import Finding, fact, warning
from rlvla3.checking.policy_trial import ROWS, PolicyTrial, ReturnedAnother, apart, largest_difference, raised, rows_of, same_bits, shown
from rlvla3.policies.base import Decisions, Observations
from rlvla3.policies.expected_answers import TRACE, ExpectedAnswers
from rlvla3.policies.options import PolicyOptions

OTHER_BATCHES = ([3], [2, 0], [5, 4, 3, 2, 1, 0])
"""Rows of the batch that are decided again in batches of their own."""


def calls(trial: PolicyTrial) -> Iterator[Finding]:
    try:
        _, evaluation = trial.call()
    except ReturnedAnother as error:
        yield Finding(str(error))
        return
    except (Exception, SystemExit) as error:  # whatever the policy raises is what was found
        yield Finding(f"{raised(error)}: answer for {ROWS} observations with noise {[ROWS, *trial.noise_shape]}, the shape of options.noise_shape")
        return
    try:
        trial.policy.value_of(evaluation.features)
    except (Exception, SystemExit) as error:
        yield Finding(f"{raised(error)}: value_of must take the features that evaluate returned")


def decisions(trial: PolicyTrial) -> Iterator[Finding]:
    trial.need_answers()
    acted, evaluated = trial.call()
    expected, wrong = ExpectedAnswers(trial.policy), False
    for name, fault in expected.faults(acted, ROWS):
        if not name.startswith(TRACE):
            wrong = True
            yield Finding(f"act returned {fault}")
    for fault in expected.evaluation_faults(evaluated, ROWS):
        wrong = True
        yield Finding(f"evaluate returned {fault}")
    if wrong:
        return
    answers = {f"act's {name}": getattr(acted, name) for name in ("actions", "logprob", "value")}
    for name, tensor in (answers | {f"evaluate's {name}": getattr(evaluated, name) for name in ("logprob", "entropy", "value")}).items():
        if tensor is not None and not tensor.isfinite().all():
            yield Finding(f"{name} has numbers that are not finite: bound what is divided by or exponentiated")
    if with_gradient := [name for name, tensor in answers.items() if tensor.requires_grad]:
        yield Finding(f"{' and '.join(with_gradient)} carry a graph: decorate act with @torch.no_grad(), because a graph costs memory")


def trace(trial: PolicyTrial) -> Iterator[Finding]:
    for name, fault in ExpectedAnswers(trial.policy).faults(trial.decisions, ROWS):
        if name.startswith(TRACE):
            yield Finding(f"act returned {fault}")


def bounds(trial: PolicyTrial) -> Iterator[Finding]:
    space, policy = trial.spaces.action, trial.policy
    trial.need_answers()
    for times, noise in (("", trial.noise()), ("10 times larger ", 10 * trial.noise())):
        actions = policy.act(trial.observations, noise, trial.explore).actions
        if not actions.isfinite().all():
            yield Finding(f"{times}noise gives actions that are not finite")
        elif space.kind == "discrete":
            if (actions != actions.round()).any() or actions.min() < 0 or actions.max() >= space.choices:
                yield Finding(f"{times}noise gives actions that are not whole numbers from 0 to {space.choices - 1}, such as {_first_outside(actions, space)}")
        elif actions.min() < space.low or actions.max() > space.high:
            yield Finding(
                f"{times}noise gives actions from {actions.min():.3g} to {actions.max():.3g}, but the simulator accepts {space.low:g} to {space.high:g}: "
                f"clip the actions, and keep the sample in the trace"
            )


def _first_outside(actions: Tensor, space: Any) -> float:
    wrong = (actions != actions.round()) | (actions < 0) | (actions >= space.choices)
    return float(actions[wrong][0])


def agreement(trial: PolicyTrial) -> Iterator[Finding]:
    difference = apart(trial.evaluation.logprob, trial.decisions.logprob)
    if difference > trial.rounding:
        yield Finding(
            f"log-probs differ by {shown(difference)}, expected at most {trial.rounding:.0e}: compute them from what is in the trace, in the same way. "
            f"Every ratio of PPO is wrong by this"
        )
    yield difference_of(trial, difference)


def value(trial: PolicyTrial) -> Iterator[Finding]:
    evaluation = trial.evaluation
    difference = apart(evaluation.value, trial.decisions.value)
    if difference > trial.rounding:
        yield Finding(f"evaluate's values differ from act's by {shown(difference)}, expected at most {trial.rounding:.0e}: compute both by value_of")
    again = apart(trial.policy.value_of(evaluation.features), evaluation.value)
    if again > trial.rounding:
        yield Finding(f"value_of(features) differs from evaluate's value by {shown(again)}: put all that the value depends on into the features")
    yield difference_of(trial, max(difference, again))


def noise(trial: PolicyTrial) -> Iterator[Finding]:
    before = _global_generators()
    trial.act(trial.policy)
    trial.evaluate()
    used = [name for name, state in _global_generators().items() if state != before[name]]
    if used:
        yield Finding(f"act or evaluate drew from the global generator of {' and '.join(used)}: take all random numbers from `noise`")


def repeats(trial: PolicyTrial) -> Iterator[Finding]:
    again = trial.act(trial.policy)
    if not same_bits(again, trial.decisions):
        yield Finding(
            f"the same observations and noise gave other decisions the second time, by {shown(largest_difference(again, trial.decisions))}: "
            f"a decision may depend on observation, noise and weights alone"
        )
    if not torch.equal(trial.evaluate().logprob, trial.evaluation.logprob):
        yield Finding("evaluate gave other log-probs the second time: it may draw no random numbers, and keep nothing from call to call")


def _global_generators() -> dict[str, Any]:
    _, keys, place, *_ = np.random.get_state(legacy=True)
    return {"torch": torch.get_rng_state().tolist(), "numpy": (np.asarray(keys).tolist(), place), "random": random.getstate()}


def exploration(trial: PolicyTrial) -> Iterator[Finding]:
    """Noise of three and more axes is taken for several draws. The first of them may be what denoising starts from."""
    trial.need_answers()

    def actions(noise: Tensor, explore: Tensor) -> Tensor:
        return trial.policy.act(trial.observations, noise, explore).actions

    everyone, nobody = torch.ones(ROWS, dtype=torch.bool), torch.zeros(ROWS, dtype=torch.bool)
    given, other = trial.noise(), trial.noise(1)
    starts = len(trial.noise_shape) > len(PolicyOptions().noise_shape(trial.spaces, trial.config.chunk))
    if starts:
        other[:, 0] = given[:, 0]
    best, best_again = (actions(noise, nobody) for noise in (given, other))
    explored = actions(given, everyone)
    if not torch.equal(best, best_again):
        ignored = "all noise but its first draw, from which denoising may start" if starts else "all noise"
        yield Finding(f"with explore=False the actions change with exploration noise, by {shown(apart(best_again, best))}: ignore {ignored} there")
    if torch.equal(best, explored):
        if trial.spaces.action.kind == "discrete":
            yield warning("explore=True and explore=False gave the same choices: are the probabilities so far from even?")
        else:
            yield Finding("explore=True and explore=False give the same actions: a policy that does not explore learns nothing")
    mixed = actions(given, trial.explore)
    if apart(mixed, torch.where(trial.explore[:, None, None], explored, best)) > trial.rounding:
        yield Finding("whether one decision explores changes another decision of its batch: apply `explore` to each row alone")


def batch(trial: PolicyTrial) -> Iterator[Finding]:
    decided, worst = trial.decisions, 0.0
    for rows in OTHER_BATCHES:
        again = trial.policy.act(rows_of(trial.observations, rows), trial.noise()[rows], trial.explore[rows])
        acted = largest_difference(again, _rows_of_decisions(decided, rows))
        recorded = _rows_of_decisions(decided, rows)
        evaluated = apart(trial.policy.evaluate(rows_of(trial.observations, rows), recorded.actions, recorded.trace).logprob, trial.evaluation.logprob[rows])
        for call, difference in (("act", acted), ("evaluate", evaluated)):
            if difference > trial.rounding:
                yield Finding(
                    f"{call} gives other answers for rows {rows} of a batch of {ROWS} alone, by {shown(difference)}, expected at most {trial.rounding:.0e}: "
                    f"no row may see another, and nothing may be averaged over the batch"
                )
        worst = max(worst, acted, evaluated)
    yield difference_of(trial, worst)


def _rows_of_decisions(given: Decisions, rows: list[int]) -> Decisions:
    return Decisions(given.actions[rows], given.logprob[rows], given.value[rows], {name: tensor[rows] for name, tensor in given.trace.items()})


def instructions(trial: PolicyTrial) -> Iterator[Finding]:
    trial.need_answers()
    short, long = trial.instructions
    batches = [replace(trial.observations, instructions=[short] * (ROWS - 1) + [last]) for last in (short, long)]
    alone, beside = (trial.policy.act(observations, trial.noise(), trial.explore) for observations in batches)
    rows = list(range(ROWS - 1))
    difference = largest_difference(_rows_of_decisions(beside, rows), _rows_of_decisions(alone, rows))
    if difference > trial.rounding:
        yield Finding(
            f"decisions change by {shown(difference)} when a neighbour's instruction is {long!r} in place of {short!r}: mask the padding, "
            f"or pad every instruction to one length"
        )
    last = [ROWS - 1]
    if largest_difference(_rows_of_decisions(beside, last), _rows_of_decisions(alone, last)) == 0:
        raise NotApplicable("none is read")
    yield difference_of(trial, difference)


def inputs(trial: PolicyTrial) -> Iterator[Finding]:
    decided = trial.decisions
    given, untouched = (_tensors_given(trial) for _ in range(2))
    observations, noise, tensors = given
    trial.policy.act(observations, noise, trial.explore)
    trial.policy.evaluate(observations, decided.actions, {name: tensors[f"trace {name}"] for name in decided.trace})
    changed = [name for name, tensor in tensors.items() if not torch.equal(tensor, untouched[2][name])]
    if changed:
        yield Finding(f"act or evaluate wrote into {', '.join(changed)}: copy before changing, because these are the data plane's own arrays")


def _tensors_given(trial: PolicyTrial) -> tuple[Observations, Tensor, dict[str, Tensor]]:
    """Observations, noise, and these and the trace as copies by name."""
    observations, noise = trial.observations, trial.noise()
    tensors = {f"image {camera}": image for camera, image in observations.images.items()}
    tensors |= {"state": observations.state, "elapsed": observations.elapsed, "noise": noise}
    return observations, noise, tensors | {f"trace {name}": tensor.clone() for name, tensor in trial.decisions.trace.items()}


def difference_of(trial: PolicyTrial, difference: float) -> Finding:
    """A difference that is small enough, as a fact."""
    low = "" if trial.lowest == torch.float32 else f", computed in {str(trial.lowest).removeprefix('torch.')}"
    return fact(f"they differ by {'exactly 0.0' if difference == 0 else f'at most {difference:.1e}'}{low}")
