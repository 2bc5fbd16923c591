"""What an environment's reset and step must take and return, and how older signatures are recognised.

Gymnasium's `reset(*, seed, options)` returns (observation, info), and `step(action)` returns (observation, reward, terminated, truncated, info). Gym before
0.26 had other signatures. A class of one's own may return anything.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple, NoReturn

import gymnasium
import numpy as np

from rlvla3.errors import RecipeError
from rlvla3.simulators.base import ContractError

RESET_WORDS = "write reset(self, *, seed=None, options=None) and return (observation, info)"
STEP_WORDS = "return (observation, reward, terminated, truncated, info)"


SUCCESS_KEYS = ("success", "is_success", "succeed")
"""Where info says success, unless the recipe names a key. The first one that is not None counts."""


class StepAnswer(NamedTuple):
    """What step returned, checked. success: what info says of it, None if it says nothing."""

    observation: Any
    reward: float
    terminated: bool
    truncated: bool
    success: bool | None
    info: Mapping[str, Any]


def check_signatures(environment: gymnasium.Env[Any, Any], name: str) -> None:
    """Raise RecipeError if `reset` or `step` cannot be called as Gymnasium calls them. Nothing is called."""
    for layer in layers(environment):
        if not _can_be_called(layer.reset, seed=0, options=None):
            raise RecipeError(f"{name}: {type(layer).__name__}.reset does not take seed and options, as in Gym before 0.26: {RESET_WORDS}")
        if not _can_be_called(layer.step, 0):
            raise RecipeError(f"{name}: {type(layer).__name__}.step does not take one action: write step(self, action)")


def layers(environment: gymnasium.Env[Any, Any]) -> list[gymnasium.Env[Any, Any]]:
    """The wrappers of an environment from the outermost to the innermost, and the environment itself."""
    found = [environment]
    while isinstance(found[-1], gymnasium.Wrapper):
        found.append(found[-1].env)
    return found


def reset_answer(answer: Any) -> tuple[Any, Mapping[str, Any]]:
    """What reset returned: observation and info. Raises ContractError if that is not (observation, info)."""
    if isinstance(answer, tuple) and len(answer) == 2:
        if not isinstance(answer[1], Mapping):
            raise ContractError(f"reset returned a {type(answer[1]).__name__} as info, but info is a dict: {RESET_WORDS}")
        return answer
    older = ", as in Gym before 0.26, without info" if isinstance(answer, Mapping) or getattr(answer, "shape", ()) != () else ""
    raise ContractError(f"reset returned {_words(answer)}{older}: {RESET_WORDS}")


def step_answer(answer: Any, success_keys: Sequence[str] = SUCCESS_KEYS) -> StepAnswer:
    """What step returned, checked. success_keys: where info says success. Raises ContractError if that is not what Gymnasium expects."""
    if not isinstance(answer, tuple) or len(answer) != 5:
        older = ", as in Gym before 0.26" if isinstance(answer, tuple) and len(answer) == 4 else ""
        raise ContractError(f"step returned {_words(answer)}{older}: {STEP_WORDS}")
    observation, reward, terminated, truncated, info = answer
    if not isinstance(info, Mapping):
        raise ContractError(f"step returned a {type(info).__name__} as info, but info is a dict: {STEP_WORDS}")
    flags = _flag("terminated", terminated), _flag("truncated", truncated)
    return StepAnswer(observation, _reward(reward), *flags, _success(info, success_keys), info)


def explain_unpacking(error: TypeError | ValueError) -> NoReturn:
    """Raise ContractError if one of Gymnasium's wrappers could not unpack what the environment returned; else raise `error` again."""
    trace = inspect.getinnerframes(error.__traceback__)[-1] if error.__traceback__ else None
    if trace is None or "unpack" not in str(error) or not str(trace.frame.f_globals.get("__name__", "")).startswith("gymnasium."):
        raise error
    raise ContractError(
        f"a wrapper of Gymnasium cannot read what {trace.function} returned ({error}), as in Gym before 0.26: "
        f"{RESET_WORDS if trace.function == 'reset' else STEP_WORDS}"
    ) from error


def _can_be_called(function: Any, *arguments: Any, **settings: Any) -> bool:
    try:
        inspect.signature(function).bind(*arguments, **settings)
    except TypeError:
        return False
    except ValueError:  # a function in C tells no signature
        return True
    return True


def _reward(reward: Any) -> float:
    if isinstance(reward, (float, np.floating)):
        return float(reward)
    kind = getattr(getattr(reward, "dtype", None), "kind", "f")  # a tensor's dtype has no kind
    if isinstance(reward, Real) or (getattr(reward, "shape", None) == () and kind in "fiub"):  # an array or a tensor without dimensions
        try:
            return float(reward)
        except OverflowError:  # a whole number that no float holds: the largest float is refused as too large, with its size
            return sys.float_info.max if reward > 0 else -sys.float_info.max
        except (TypeError, ValueError):
            pass
    raise ContractError(f"the reward is {_words(reward)}, but a reward is one number: return float(reward)")


def _flag(name: str, flag: Any) -> bool:
    if isinstance(flag, (bool, np.bool_)) or (isinstance(flag, np.ndarray) and flag.shape == () and flag.dtype == np.bool_):
        return bool(flag)
    raise ContractError(f"{name} is {_words(flag)}, but it is one bool: {STEP_WORDS}, with bool({name})")


def _success(info: Mapping[str, Any], keys: Sequence[str]) -> bool | None:
    """Success as info tells it under the first of `keys` that is not None there: a bool, or 0 or 1. None means that it is not known yet."""
    key, success = next(((key, info[key]) for key in keys if info.get(key) is not None), ("", None))
    if success is None or isinstance(success, (bool, np.bool_)):
        return None if success is None else bool(success)
    if getattr(success, "shape", ()) == () and not isinstance(success, str):
        try:
            number = float(success)
        except (TypeError, ValueError):
            number = -1.0
        if number in (0, 1):
            return bool(number)
    raise ContractError(f"{key} in info is {_words(success)}, but it is one bool, of this one environment: put a bool there")


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    shape = getattr(value, "shape", None)
    if shape == ():
        return f"{value!r:.40}, of type {value.dtype}"
    if shape is not None:
        return f"an array {list(shape)} of {value.dtype}"
    return f"{value!r:.40}, a {type(value).__name__}"
