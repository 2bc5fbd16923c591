"""Small policies of every kind, what they are asked, and what an actor answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvla3.config import PolicyConfig
from rlvla3.inference.actor import Actor
from rlvla3.policies.base import Decisions, Observations
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.registry import make_policy
from rlvla3.types import ActionSpace, Spaces
from tests.support import vla

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


def make(case: str, device: str = "cpu") -> Any:
    name, spaces, options = CASES[case]
    torch.manual_seed(0)
    config = PolicyConfig(name=name, chunk=4, size="tiny" if name in vla.FAMILIES else "published", options=options)
    return make_policy(config, spaces).to(device).eval()


def asked(policy: Any, rows: int = 3, seed: int = 0) -> tuple[Observations, Tensor, Tensor]:
    """Observations, noise and explore."""
    spaces = replace(policy.spaces, instructions=policy.spaces.instructions or ("",))
    noise = decision_noise(seed, [(1, ticket, 0) for ticket in range(rows)], policy.options.noise_shape(spaces, policy.chunk))
    return vla.observe(spaces, rows, seed), torch.from_numpy(noise), torch.arange(rows) % 2 == 0


def wait(actor: Actor, observations: Observations) -> None:
    """Put rows among those that wait, in two parts."""
    arrays = {f"image.{camera}": image.numpy() for camera, image in observations.images.items()}
    arrays |= {"state": observations.state.numpy(), "elapsed": observations.elapsed.numpy()}
    for part in np.array_split(np.arange(len(observations)), 2):
        for name, room in actor.waiting.rows(len(part)).items():
            room[:] = arrays[name][part]
        actor.waiting.add(len(part))


def begun(actor: Actor, given: tuple[Observations, Tensor, Tensor], order: list[int] | None = None) -> Any:
    """The answer to what was asked, which may be under way."""
    observations, noise, explore = given
    wait(actor, observations)
    order = list(range(len(observations))) if order is None else order
    return actor.begin(order, [observations.instructions[row] for row in order], noise[order].numpy(), explore[order].numpy())


def acted(actor: Actor, given: tuple[Observations, Tensor, Tensor], order: list[int] | None = None) -> Decisions:
    answer = begun(actor, given, order)
    if answer.event is not None:
        answer.event.synchronize()
    decisions: Decisions = answer.decisions
    return decisions


def numbers(decisions: Decisions) -> Mapping[str, Tensor]:
    return {"actions": decisions.actions, "logprob": decisions.logprob, "value": decisions.value, **decisions.trace}


def same(one: Decisions, other: Decisions, rows: slice = slice(None)) -> bool:
    return all(torch.equal(tensor[rows], numbers(other)[name][rows]) for name, tensor in numbers(one).items())


def apart(one: Decisions, other: Decisions) -> float:
    """The largest difference of any number."""
    return max(float((tensor.double() - numbers(other)[name].double()).abs().max()) for name, tensor in numbers(one).items())
