"""A policy outside of a run: from a folder to actions."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.api.recipes import trusted
from rlvla3.config import path_of
from rlvla3.errors import ExplainedError
from rlvla3.inference.misfits import misfits
from rlvla3.observability.continuing import policy_folder
from rlvla3.observability.trust import check_trust
from rlvla3.policies.saved_policy import SavedPolicy, read_checkpoint_config
from rlvla3.types import Observation, Spaces

if TYPE_CHECKING:
    from rlvla3.policies.base import Policy

Seed = int | np.random.Generator | None


class ObservationError(ExplainedError, ValueError):
    """An observation that the policy cannot see: what is wrong with it, and what the policy was trained with."""


def load_policy(folder: str | PathLike[str], device: str = "cpu", *, trust: bool = False) -> LoadedPolicy:
    """The policy in `folder`: a run directory (its newest checkpoint), a checkpoint, or a policy folder with config.json and model.safetensors.

    device: cpu, cuda, cuda:N, or auto, a GPU if there is one. trust: whether somebody else's folder may name a class that is no part of rlvla3
    (docs/security.md).
    Raises RecipeError, RunDirectoryError or PolicyError where there is no policy that can be used, and RecipeError for a device that is not there.
    """
    check_trust(path_of(folder), trust=trusted(folder, trust))
    place = policy_folder(path_of(folder))
    saved = read_checkpoint_config(place)
    from rlvla3.devices import choose_device
    from rlvla3.policies.registry import make_policy

    policy = make_policy(saved.config(place), saved.spaces).eval().to(choose_device(device, "device"))
    return LoadedPolicy(place, saved, policy)


class LoadedPolicy:
    """A policy that acts. `load_policy` makes it.

    path: its folder. name: how a recipe names this kind of policy. spaces: the cameras, the size of the state and the actions that it was trained with.
    chunk: the number of actions of one decision, C.
    """

    def __init__(self, path: Path, saved: SavedPolicy, policy: Policy) -> None:
        self.path, self.name, self.spaces, self.chunk = path, saved.name, saved.spaces, saved.chunk
        self._policy = policy

    def act(self, observation: Observation | Sequence[Observation], *, explore: bool = False, seed: Seed = 0) -> NDArray[np.float32]:
        """Decide. Returns float32 [C, A] for one observation and [B, C, A] for a sequence of B; actions are what `Simulator.step` takes: continuous ones within
        spaces.action.low and high, a discrete one as its number.

        explore: False gives what `evaluate` measures, actions free of exploration noise; True gives actions as in training.
        seed: of all noise, as numpy.random.default_rng takes it. A number gives the same actions at every call. For new noise at each call, keep one Generator
        and pass it each time. A flow policy starts every chunk from noise, so `seed` matters there without `explore`, too: a number then gives all
        observations of a sequence the same start, and a Generator gives each its own, as evaluation does.

        Raises ObservationError where an observation is not of the kind that the policy was trained with.
        """
        observations = [observation] if isinstance(observation, Observation) else observation
        _refuse_misfits(observations, self.spaces)
        actions = self._decide(observations, explore, self._noise(len(observations), explore, seed))
        return actions[0] if isinstance(observation, Observation) else actions

    def _decide(self, observations: Sequence[Observation], explore: bool, noise: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        from rlvla3.policies.conversion import arrays_from, observations_from

        if not observations:
            return np.zeros((0, self.chunk, self.spaces.action.size), np.float32)
        arrays: dict[str, NDArray[Any]] = {f"image.{camera}": np.stack([seen.images[camera] for seen in observations]) for camera in self.spaces.cameras}
        arrays["state"] = np.stack([np.asarray(seen.state, np.float32) for seen in observations])
        arrays["elapsed"] = np.array([seen.elapsed for seen in observations], np.float32)
        device = next(self._policy.parameters()).device
        seen = self._policy.tokenise(observations_from(arrays, [one.instruction for one in observations])).to(device)
        exploring = torch.full((len(observations),), explore, device=device)
        with torch.inference_mode():
            decisions = self._policy.act(seen, torch.from_numpy(noise).to(device), exploring)
        actions: NDArray[np.float32] = arrays_from(decisions, version=0)["actions"]
        return actions

    def _noise(self, count: int, explore: bool, seed: Seed) -> NDArray[np.float32]:
        shape, source = self._policy.options.noise_shape(self.spaces, self.chunk), np.random.default_rng(seed)
        if explore or isinstance(seed, np.random.Generator):
            return source.standard_normal((count, *shape), np.float32)
        return np.repeat(source.standard_normal((1, *shape), np.float32), count, 0)

    def __repr__(self) -> str:
        action = self.spaces.action
        actions = f"one of {action.choices} choices" if action.kind == "discrete" else f"{action.size} numbers in [{action.low:g}, {action.high:g}]"
        return f"<{self.name} in {self.path}: sees cameras {dict(self.spaces.cameras)} and a state of {self.spaces.state}; {self.chunk} actions of {actions}>"


def _refuse_misfits(observations: Sequence[Observation], spaces: Spaces) -> None:
    """Raise ObservationError with all that is wrong with the first observation that is not as `spaces` says."""
    for number, observation in enumerate(observations):
        if faults := list(misfits(observation, spaces)):
            which = f"observation {number} of {len(observations)}" if len(observations) > 1 else "the observation"
            raise ObservationError(f"{which} is not of the kind that this policy was trained with:\n" + "\n".join(f"  {fault}" for fault in faults))
