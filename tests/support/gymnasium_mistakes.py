"""Gymnasium environments that make one mistake each, or that do something unusual that is right."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple


class Walk(gymnasium.Env[Any, Any]):
    """A correct environment: six steps on a line. Subclasses spoil one thing."""

    observation_space: Any = Box(-np.inf, np.inf, (2,), np.float32)
    action_space: Any = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.at, self.count = float(self.np_random.uniform(-1, 1)), 0
        return self.look(), {}

    def step(self, action: Any) -> Any:
        self.at, self.count = self.at + 0.1 * float(np.mean(action)), self.count + 1
        return self.look(), self.reward(), self.terminated(), self.truncated(), self.info()

    def look(self) -> Any:
        return np.array([self.at, self.count], np.float32)

    def reward(self) -> Any:
        return -abs(self.at)

    def terminated(self) -> Any:
        return self.count >= 6

    def truncated(self) -> Any:
        return False

    def info(self) -> Any:
        return {"success": self.terminated()}


class Camera(Walk):
    """Shows a picture."""

    observation_space: Any = Box(0, 255, (64, 64, 3), np.uint8)

    def look(self):
        return picture_of(self)


def picture_of(walk: Walk) -> Any:
    """uint8 [64, 64, 3]: a column where the walk is, and a row for each step."""
    picture = np.full((64, 64, 3), 60, np.uint8)
    picture[:, int(32 + 8 * walk.at) % 64] = 200
    picture[walk.count] = 250
    return picture


def spoiled(base: type, **parts: Any) -> type:
    """A subclass of `base` with other methods and attributes. A part that takes no `self` is written as a function of the environment."""
    return type("Spoiled", (base,), parts)


def resets(answer: Any) -> dict[str, Any]:
    """reset returns what `answer` makes of the observation."""

    def reset(self, *, seed=None, options=None):
        return answer(Walk.reset(self, seed=seed)[0])

    return {"reset": reset}


def steps(answer: Any) -> dict[str, Any]:
    """step returns what `answer` makes of the correct five values."""
    return {"step": lambda self, action: answer(Walk.step(self, action))}


def old_reset(self):
    return Walk.reset(self)[0]


def reset_without_options(self, seed=None):
    return Walk.reset(self, seed=seed)


def reset_without_seed(self, *, options=None):
    return Walk.reset(self)


def step_without_action(self):
    return Walk.step(self, 0.0)


class Keyed(Walk):
    """A Dict of all supported kinds of parts."""

    observation_space: Any = Dict({"camera": Camera.observation_space, "joints": Box(-9, 9, (3,)), "mode": Discrete(3, start=-1), "touch": MultiBinary(2)})

    def look(self):
        joints = np.array([self.at, self.count, 0], np.float32)
        return {"camera": picture_of(self), "joints": joints, "mode": self.count % 3 - 1, "touch": np.array([0, 1], np.int8)}


class Pair(Walk):
    """A Tuple."""

    observation_space: Any = Tuple((Box(-9, 9, (2,)), MultiDiscrete([3, 4])))

    def look(self):
        return Walk.look(self), np.array([self.count % 3, 1])


def keyed(**parts: Any) -> dict[str, Any]:
    """A Keyed observation with other parts. A part of None is left out."""

    def look(self):
        return {key: value for key, value in {**Keyed.look(self), **parts}.items() if value is not None}

    return {"look": look}


MISTAKES: dict[str, tuple[type, str]] = {
    # observations
    "float frames for a uint8 space": (
        spoiled(Camera, look=lambda self: Camera.look(self) / np.float32(280)),
        "float32 [64, 64, 3], but observation_space says uint8",
    ),
    "int64 frames": (spoiled(Camera, look=lambda self: Camera.look(self).astype(np.int64)), "int64 [64, 64, 3], but observation_space says uint8"),
    "frames channels first": (spoiled(Camera, look=lambda self: Camera.look(self).transpose(2, 0, 1)), "uint8 [3, 64, 64], but"),
    "frames of one channel": (spoiled(Camera, look=lambda self: Camera.look(self)[..., :1]), "uint8 [64, 64, 1], but"),
    "frames of another size": (spoiled(Camera, look=lambda self: Camera.look(self)[:32]), "uint8 [32, 64, 3], but"),
    "a row of a frame": (spoiled(Camera, look=lambda self: Camera.look(self)[0]), "uint8 [64, 3], but"),
    "black frames": (spoiled(Camera, look=lambda self: 0 * Camera.look(self)), "the frame of image is black"),
    "red frames": (spoiled(Camera, look=lambda self: 0 * Camera.look(self) + np.array([200, 0, 0], np.uint8)), "of a single colour, [200, 0, 0]"),
    "frozen frames": (
        spoiled(Keyed, look=lambda self: {**Keyed.look(self), "camera": np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)}),
        "never change within an episode, although the state changes",
    ),
    "a state of one number for two": (spoiled(Walk, look=lambda self: np.array([self.at], np.float32)), "float32 [1], but observation_space says float32 [2]"),
    "a state with one axis more": (spoiled(Walk, look=lambda self: Walk.look(self)[None]), "float32 [1, 2], but"),
    "a number for a state": (spoiled(Walk, look=lambda self: self.at), "but observation_space says float32 [2]"),
    "whole numbers for a float32 state": (spoiled(Walk, look=lambda self: np.array([1, 2])), "int64 [2], but observation_space says float32"),
    "complex numbers": (spoiled(Walk, look=lambda self: Walk.look(self).astype(complex)), "complex128 [2]"),
    "text": (spoiled(Walk, look=lambda self: np.array(["a", "b"])), "but observation_space says float32 [2]"),
    "a ragged list": (spoiled(Walk, look=lambda self: [1.0, [2.0, 3.0]]), "list [1.0, [2.0, 3.0]], but"),
    "nothing": (spoiled(Walk, look=lambda self: None), "NoneType None, but"),
    "NaN in the state": (spoiled(Walk, look=lambda self: np.array([np.nan, self.count], np.float32)), "NaN in state"),
    "infinity in the state": (spoiled(Walk, look=lambda self: np.array([np.inf, self.count], np.float32)), "infinity in state"),
    "1e300 in a float64 state": (spoiled(Walk, look=lambda self: np.array([1e300, self.count])), "infinity in state"),
    "a missing key": (spoiled(Keyed, **keyed(touch=None)), "has the keys ['camera', 'joints', 'mode']"),
    "a key too many": (spoiled(Keyed, **keyed(depth=np.zeros(2))), "make them the same"),
    "an array for a Dict": (spoiled(Keyed, look=Walk.look), "observation_space is a Dict of camera, joints, mode, touch"),
    "a choice beyond the last": (spoiled(Keyed, **keyed(mode=2)), "2, which is not in Discrete(3, start=-1)"),
    "a choice as a float": (spoiled(Keyed, **keyed(mode=1.0)), "but observation_space says Discrete(3, start=-1)"),
    "a touch of 2": (spoiled(Keyed, **keyed(touch=np.array([0, 2], np.int8))), "which is not in MultiBinary(2)"),
    "a touch too many": (spoiled(Keyed, **keyed(touch=np.array([0, 1, 1], np.int8))), "int8 [3], but observation_space says int8 [2]"),
    "a Tuple with a part too few": (spoiled(Pair, look=lambda self: (Walk.look(self),)), "is a Tuple of 2"),
    "a board with a piece that is none": (
        spoiled(Walk, observation_space=Box(0, 2, (8, 8), np.uint8), look=lambda self: np.full((8, 8), 3, np.uint8)),
        "which is not in Box(0, 2, (8, 8), uint8)",
    ),
    # rewards
    "a reward of two dimensions": (spoiled(Walk, reward=lambda self: np.ones((1, 1))), "the reward is an array [1, 1]"),
    "a reward in an array": (spoiled(Walk, reward=lambda self: np.ones(1)), "the reward is an array [1]"),
    "two rewards": (spoiled(Walk, reward=lambda self: [1.0, 2.0]), "the reward is [1.0, 2.0], a list"),
    "no reward": (spoiled(Walk, reward=lambda self: None), "the reward is None"),
    "a reward as text": (spoiled(Walk, reward=lambda self: "1"), "the reward is '1', a str"),
    "a reward of NaN": (spoiled(Walk, reward=lambda self: float("nan")), "NaN in rewards"),
    "a reward of 1e300": (spoiled(Walk, reward=lambda self: 1e300), "a reward of size 1e+300"),
    "a reward of 1e30": (spoiled(Walk, reward=lambda self: np.float32(1e30)), "a reward of size 1e+30"),
    "a whole number too large for float32": (spoiled(Walk, reward=lambda self: -(10**40)), "a reward of size 1e+40"),
    "a whole number that no float holds": (spoiled(Walk, reward=lambda self: 10**400), "a reward of size 1.79769e+308"),
    "a reward as text in an array": (spoiled(Walk, reward=lambda self: np.array("1.5")), "but a reward is one number"),
    "a complex reward": (spoiled(Walk, reward=lambda self: np.complex64(1)), "but a reward is one number"),
    "a time as reward": (spoiled(Walk, reward=lambda self: np.timedelta64(3, "s")), "but a reward is one number"),
    # flags and info
    "terminated as a whole number of numpy": (spoiled(Walk, terminated=lambda self: np.int64(0)), "terminated is np.int64(0), of type int64"),
    "terminated as a number": (spoiled(Walk, terminated=lambda self: float(self.count == 6)), "terminated is 0.0, a float"),
    "terminated as an array": (spoiled(Walk, terminated=lambda self: np.array([self.count == 6]), info=lambda self: {}), "terminated is an array [1] of bool"),
    "truncated as None": (spoiled(Walk, truncated=lambda self: None), "truncated is None"),
    "success as an array": (spoiled(Walk, info=lambda self: {"success": np.array([True, False])}), "success in info is an array [2] of bool"),
    "success as an array of one": (spoiled(Walk, info=lambda self: {"is_success": np.array([True])}), "success in info is an array [1] of bool"),
    "success as a share": (spoiled(Walk, info=lambda self: {"success": 0.5}), "success in info is 0.5, a float"),
    "success as text": (spoiled(Walk, info=lambda self: {"success": "False"}), "success in info is 'False', a str"),
    "info as a list": (spoiled(Walk, info=lambda self: []), "step returned a list as info"),
    # older signatures, and others
    "reset without info": (spoiled(Walk, **resets(lambda seen: seen)), "reset returned an array [2] of float32, as in Gym before 0.26"),
    "reset without info, of a dict": (spoiled(Keyed, reset=lambda self, *, seed=None, options=None: Walk.reset(self, seed=seed)[0]), "as in Gym before 0.26"),
    "reset with None as info": (spoiled(Walk, **resets(lambda seen: (seen, None))), "reset returned a NoneType as info"),
    "reset returns nothing": (spoiled(Walk, **resets(lambda seen: None)), "reset returned None, a NoneType: write"),
    "reset returns three": (spoiled(Walk, **resets(lambda seen: (seen, {}, 1))), "reset returned a tuple of 3: write"),
    "step of four": (spoiled(Walk, **steps(lambda five: (*five[:3], five[4]))), "step returned a tuple of 4, as in Gym before 0.26"),
    "step of three": (spoiled(Walk, **steps(lambda five: five[:3])), "step returned a tuple of 3"),
    "step returns a list": (spoiled(Walk, **steps(list)), "a list: return (observation, reward, terminated, truncated, info)"),
    "terminated in the place of the reward": (spoiled(Walk, **steps(lambda five: (five[0], five[2], five[1], five[3], five[4]))), "terminated is"),
    # actions
    "a space that refuses its own bounds": (spoiled(Walk, action_space=type("Odd", (Box,), {"contains": lambda self, x: False})(-1, 1, (1,))), "is not in"),
}
"""Found when an environment is reset or stepped."""

HALF, HUGE = np.array([np.inf, 10], np.float32), np.full(2, 3e7, np.float32)

REFUSED: dict[str, tuple[type, str]] = {
    "an old reset": (spoiled(Walk, reset=old_reset), "reset does not take seed and options, as in Gym before 0.26"),
    "reset without options": (spoiled(Walk, reset=reset_without_options), "reset does not take seed and options"),
    "reset without seed": (spoiled(Walk, reset=reset_without_seed), "reset does not take seed and options"),
    "step without an action": (spoiled(Walk, step=step_without_action), "step does not take one action"),
    "no action space": (spoiled(Walk, action_space=None), "has no action_space"),
    "no observation space": (spoiled(Walk, observation_space=None), "has no observation_space"),
    "actions with one bound": (spoiled(Walk, action_space=Box(np.array([10, 0], np.float32), HALF)), "bounds [10, inf] in dimension 0"),
    "actions with huge bounds": (spoiled(Walk, action_space=Box(-HUGE, HUGE)), "bounds [-3e+07, 3e+07] in dimension 0"),
    "whole numbers without bounds": (spoiled(Walk, action_space=Box(-np.inf, np.inf, (1,), np.int64)), "bounds [-inf, inf]"),
    "whole numbers with one bound": (spoiled(Walk, action_space=Box(0, np.inf, (1,), np.int32)), "bounds [0, inf]"),
    "actions without a dimension": (spoiled(Walk, action_space=Box(-1, 1, (0,))), "has no dimension"),
    "too many choices": (spoiled(Walk, action_space=Discrete(2**40)), "at most 65536"),
    "MultiDiscrete": (spoiled(Walk, action_space=MultiDiscrete([2, 3])), "supported are Discrete and Box"),
    "MultiBinary": (spoiled(Walk, action_space=MultiBinary(3)), "supported are Discrete and Box"),
    "Dict of actions": (spoiled(Walk, action_space=Dict({"arm": Box(-1, 1, (2,))})), "supported are Discrete and Box"),
    "Tuple of actions": (spoiled(Walk, action_space=Tuple((Discrete(2), Box(-1, 1, (2,))))), "supported are Discrete and Box"),
    "float images": (spoiled(Walk, observation_space=Box(0, 1, (64, 64, 3))), "neither an image nor a vector"),
    "a video": (spoiled(Walk, observation_space=Box(0, 1, (4, 64, 64, 3))), "neither an image nor a vector"),
    "a video of bytes": (spoiled(Walk, observation_space=Box(0, 255, (4, 64, 64, 3), np.uint8)), "neither an image nor a vector"),
    "an image with bounds of a board": (spoiled(Walk, observation_space=Box(0, 1, (64, 64, 3), np.uint8)), "within 0 to 1, which may be an image or a board"),
    "an image up to 254": (spoiled(Walk, observation_space=Box(0, 254, (4, 64, 64), np.uint8)), "within 0 to 254, which may be an image or a board"),
    "a choice of 2 ** 31": (spoiled(Walk, observation_space=Discrete(2**31)), "shows 2147483648 numbers"),
    "two choices of 10 ** 9": (spoiled(Walk, observation_space=Dict({"a": MultiDiscrete([10**9, 10**9])})), "shows 2000000000 numbers"),
    "initial states of tasks without tasks": (
        spoiled(Walk, fixed_initial_states={"push": 3}),
        "has fixed_initial_states for the tasks push, but the recipe names no task",
    ),
    "close raises": (spoiled(Walk, close=lambda self: 1 / 0), "cannot be closed: ZeroDivisionError: division by zero"),
    "no initial state": (spoiled(Walk, fixed_initial_states=0), "declares 0 fixed initial states"),
    "what may be an image or a board": (spoiled(Walk, observation_space=Box(0, 255, (7, 7, 3), np.uint8)), "may be an image or a board"),
    "two parts of one name": (
        spoiled(Walk, observation_space=Dict({"a.b": Box(-1, 1, (2,)), "a": Dict({"b": Box(-1, 1, (2,))})})),
        "two parts called 'a.b'",
    ),
}
"""Found before any process starts."""

FINE: dict[str, type] = {
    "a walk": Walk,
    "a camera": Camera,
    "a Dict": Keyed,
    "a Tuple": Pair,
    "float64 for float32": spoiled(Walk, look=lambda self: np.array([self.at, self.count], np.float64)),
    "a list": spoiled(Walk, look=lambda self: [self.at, self.count]),
    "a list of whole numbers": spoiled(Walk, look=lambda self: [self.count, self.count]),
    "int8 for int64": spoiled(Walk, observation_space=Box(0, 9, (2,), np.int64), look=lambda self: np.array([self.count, 1], np.int8)),
    "a numpy choice": spoiled(Keyed, **keyed(mode=np.int32(-1))),
    "a choice in an array": spoiled(Keyed, **keyed(mode=np.array(1))),
    "touch as bools": spoiled(Keyed, **keyed(touch=np.array([True, False]))),
    "a float32 reward": spoiled(Walk, reward=lambda self: np.float32(1)),
    "a whole reward": spoiled(Walk, reward=lambda self: 1),
    "a reward without dimensions": spoiled(Walk, reward=lambda self: np.array(0.5)),
    "numpy flags": spoiled(Walk, terminated=lambda self: np.bool_(self.count == 6), truncated=lambda self: np.array(False)),
    "success as 0 and 1": spoiled(Walk, info=lambda self: {"success": float(self.count == 6)}),
    "success not known yet": spoiled(Walk, info=lambda self: {"success": True if self.count == 6 else None}),
    "success in the second place": spoiled(Walk, info=lambda self: {"success": None, "is_success": self.count == 6}),
    "an info that says nothing": spoiled(Walk, info=lambda self: {}),
    "a Go board": spoiled(Walk, observation_space=Box(0, 1, (19, 19, 17), np.uint8), look=lambda self: np.full((19, 19, 17), self.count % 2, np.uint8)),
    "an 8 x 8 board": spoiled(Walk, observation_space=Box(0, 255, (8, 8), np.uint8), look=lambda self: np.full((8, 8), self.count, np.uint8)),
    "an 8 x 8 board of three pieces": spoiled(Walk, observation_space=Box(0, 2, (8, 8), np.uint8), look=lambda self: np.full((8, 8), self.count % 3, np.uint8)),
    "planes of a board": spoiled(Walk, observation_space=Box(0, 1, (8, 8, 12), np.uint8), look=lambda self: np.full((8, 8, 12), self.count % 2, np.uint8)),
    "actions without bounds": spoiled(Walk, action_space=Box(-np.inf, np.inf, (2,))),
    "actions of the largest float": spoiled(Walk, action_space=Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (2,))),
    "whole actions": spoiled(Walk, action_space=Box(-2, 2, (1,), np.int64)),
    "choices from 5 on": spoiled(Walk, action_space=Discrete(3, start=5)),
}
"""Accepted, by check and by a run."""


def named(name: str) -> Any:
    """Makes the environment of one name from one of the tables: `simulator.options.kwargs={"name": ...}`."""
    return {**{key: kind for table in (MISTAKES, REFUSED) for key, (kind, _) in table.items()}, **FINE}[name]()
