"""The contract of a policy as a list of checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlvla3.checking import policy_answers, policy_weights
from rlvla3.checking.evidence import NotApplicable
from rlvla3.checking.finding import Check, Finding, Result, run_check
from rlvla3.checking.policy_trial import PolicyTrial, raised

CHECKS: tuple[Check[PolicyTrial], ...] = (
    Check("calls", "act, evaluate and value_of answer", policy_answers.calls),
    Check("decisions", "actions, log-probs and values are finite float32 of the right shape", policy_answers.decisions),
    Check("noise", "all random numbers come from the given noise", policy_answers.noise),
    Check("repeats", "the same observations and noise give the same answers", policy_answers.repeats),
    Check("trace", "the trace is what options.trace says", policy_answers.trace),
    Check("bounds", "actions are what the simulator accepts", policy_answers.bounds),
    Check("agreement", "evaluate gives the log-probs of act on unchanged weights", policy_answers.agreement),
    Check("value", "evaluate and value_of give the values of act", policy_answers.value),
    Check("exploration", "explore alone decides whether a decision explores", policy_answers.exploration),
    Check("batch", "batch size, neighbours and order change nothing", policy_answers.batch),
    Check("instructions", "a neighbour's longer instruction changes nothing", policy_answers.instructions),
    Check("inputs", "act and evaluate leave their inputs as they were", policy_answers.inputs),
    Check("parameters", "each trainable parameter is the actor's or the critic's", policy_weights.parameters),
    Check("actor", "the gradient of log-probs reaches the actor alone", policy_weights.actor),
    Check("critic", "the gradient of value_of reaches the critic alone", policy_weights.critic),
    Check("cloning", "clone_loss repeats, and trains the actor alone", policy_weights.cloning),
    Check("published", "a policy that receives the published tensors acts the same", policy_weights.published),
    Check("saving", "a saved policy comes back whole", policy_weights.saving),
    Check("layers", "layers are used only by calling them, as FSDP needs", policy_weights.layers),
    Check("memory", "memory is known before a policy is built", policy_weights.memory),
)

FIRST = ("calls", "decisions", "repeats")
"""If one of these fails, the checks after it cannot be made."""


def run_policy_checks(trial: PolicyTrial) -> list[Result]:
    """The result of each check."""
    results = []
    for check in CHECKS:
        result = run_check(Check(check.name, check.demand, _careful(check.find)), trial)
        if check.name in FIRST and result.verdict == "failed" and not trial.blocked:
            trial.blocked = check.name
        results.append(result)
    return results


def _careful(find: Callable[[PolicyTrial], Iterator[Finding]]) -> Callable[[PolicyTrial], Iterator[Finding]]:
    """The same check, for which what the policy raises is a finding."""

    def found(trial: PolicyTrial) -> Iterator[Finding]:
        try:
            yield from find(trial)
        except NotApplicable:
            raise
        except Exception as error:  # whatever the policy raises is what was found
            yield Finding(raised(error))

    return found
