"""What a policy must return: the names, shapes and types of its arrays, and that their numbers are finite.

Names, shapes and types are known on the host, and cost no wait for a device. Whether numbers are finite is asked of the arrays on the host, where decisions
arrive anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.errors import ExplainedError
from rlvla3.policies.base import Decisions, Evaluation, Policy
from rlvla3.types import decision_layout

VERSION, TRACE = "version", "trace."


class AnswerError(ExplainedError, ValueError):
    """A policy has returned what cannot be used. The message names the policy, the array, what was found and what was expected.

    answer: what it returned, where that is known.
    """

    def __init__(self, message: str, answer: object = None) -> None:
        super().__init__(message)
        self.answer = answer


class ExpectedAnswers:
    """What `act` and `evaluate` of a policy must return.

    expected = ExpectedAnswers(policy)
    expected.check_form(policy.act(observations, noise, explore), len(observations))
    expected.check_finite(arrays_from(decisions, version), batch.tickets, batch.rows)
    """

    def __init__(self, policy: Policy) -> None:
        self.name = type(policy).__name__
        layout = decision_layout(policy.spaces.action.size, policy.chunk, policy.options.trace(policy.spaces, policy.chunk))
        self._arrays = {name: (field.shape, torch.from_numpy(np.empty(0, field.dtype)).dtype) for name, field in layout.items() if name != VERSION}
        self._chunk = self._arrays["logprob"][0]

    def check_form(self, decisions: object, rows: int) -> None:
        """Raise AnswerError where what `act` returned for so many observations has other arrays, shapes or types."""
        for _, fault in self.faults(decisions, rows):
            raise AnswerError(f"act of the policy {self.name} returned {fault}", decisions)

    def check_evaluation(self, evaluation: object, rows: int) -> None:
        """Raise AnswerError where what `evaluate` returned for so many decisions has other shapes."""
        for fault in self.evaluation_faults(evaluation, rows):
            raise AnswerError(f"evaluate of the policy {self.name} returned {fault}")

    def check_finite(self, arrays: Mapping[str, Any], tickets: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Raise AnswerError where an array of decisions on the host holds a NaN or an infinity. arrays: with the names of `types.decision_layout`.

        tickets, rows: [B], whose decisions they are.
        """
        for name in self._arrays:
            array = arrays[name]
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                wrong = ~np.isfinite(array)
                row = int(np.argmax(wrong.reshape(len(array), -1).any(1)))
                raise AnswerError(
                    f"act of the policy {self.name} returned {_in_words(name)} with {array[row][wrong[row]].flat[0]} for decision {rows[row]} of ticket "
                    f"{tickets[row]}: finite numbers were expected. Bound what is divided by, what a logarithm is taken of, and what is exponentiated"
                )

    def faults(self, decisions: object, rows: int) -> Iterator[tuple[str, str]]:
        """What is wrong with what `act` returned: the name of each wrong array, as in `types.decision_layout`, and the fault in words."""
        if not isinstance(decisions, Decisions):
            yield "actions", f"{tensor_words(decisions)}: return Decisions"
            return
        trace: object = decisions.trace
        if not isinstance(trace, Mapping):
            yield TRACE, f"{tensor_words(trace)} as the trace: return a dictionary of tensors"
            return
        given: dict[str, object] = {"actions": decisions.actions, "logprob": decisions.logprob, "value": decisions.value}
        given |= {TRACE + name: tensor for name, tensor in trace.items()}
        for name in sorted(given.keys() - self._arrays.keys()):
            yield name, f"{_in_words(name)}, which its options do not name: name the array in `trace` of the options, or leave it out"
        for name, (shape, dtype) in self._arrays.items():
            if name not in given:
                yield name, f"no {_in_words(name)}, which its options name: return it, or leave it out of `trace` of the options"
                continue
            tensor = given[name]
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != (rows, *shape) or tensor.dtype != dtype:
                yield name, f"{_in_words(name)} as {tensor_words(tensor)}: {_type(dtype)} {[rows, *shape]} was expected"

    def evaluation_faults(self, evaluation: object, rows: int) -> Iterator[str]:
        """What is wrong with what `evaluate` returned. Its floating type is the policy's choice."""
        if not isinstance(evaluation, Evaluation):
            yield f"{tensor_words(evaluation)}: return an Evaluation"
            return
        shapes = {"logprob": (rows, *self._chunk), "entropy": (rows, *self._chunk), "value": (rows,)}
        for name, shape in shapes.items():
            found = getattr(evaluation, name)
            if found is None and name == "entropy":
                continue
            if not isinstance(found, Tensor) or tuple(found.shape) != shape or not found.is_floating_point():
                yield f"{name} as {tensor_words(found)}: floating-point {list(shape)} was expected"


def _in_words(name: str) -> str:
    return f"the trace array {name.removeprefix(TRACE)}" if name.startswith(TRACE) else name


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tensor_words(found: object) -> str:
    """The type and shape of what should be a tensor."""
    return f"{_type(found.dtype)} {list(found.shape)}" if isinstance(found, Tensor) else "nothing" if found is None else f"a {type(found).__name__}"
