"""Environments of one ManiSkill task that step together, as tensors on one device.

Importing this file imports torch and mani_skill, which read their environment variables as they are imported: `maniskill.prepare_process` comes first.

Invariants:
- an initial state depends on the ticket's seed alone, not on its row: a row is reset alone, and every random generator is seeded with its seed before;
- what happens in a chunk stays on the device; one transfer brings all of it to the host at the end;
- nothing is drawn, and no observation is made, inside a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mani_skill.utils.registration import REGISTERED_ENVS
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.simulators.maniskill.tasks import SEEN


class Happened(NamedTuple):
    """What a chunk brought to the `n` rows of a batch.

    rewards: float32 [C, n]. executed: whole numbers [n], the steps of a row that count. success, terminated: bool [n]; success at any step so far.
    """

    rewards: NDArray[np.float32]
    executed: NDArray[np.int64]
    success: NDArray[np.bool_]
    terminated: NDArray[np.bool_]


class ParallelScenes:
    """`size` environments of `task`.

    device: "cpu", or such as "cuda:0". shows: ManiSkill's `obs_mode`: "state_dict" for the full state, or the textures of `cameras`, which are drawn then.
    sensors: ManiSkill's `sensor_configs`.

    Example:
        batch = ParallelScenes("PickCube-v1", size=256, device="cuda:0", control_mode="pd_joint_delta_pos", dense=True,
                      end_on_success=True, shows="state_dict", cameras=(), sensors={})
        batch.reset(row=3, seed=7)
        images, states = batch.observe([3])
        happened = batch.step(actions, steps_left)
    """

    def __init__(
        self,
        task: str,
        *,
        size: int,
        device: str,
        control_mode: str,
        dense: bool,
        end_on_success: bool,
        shows: str,
        cameras: Sequence[str],
        sensors: Mapping[str, Any],
    ) -> None:
        torch.set_num_threads(1)  # on a CPU a shard is one of many processes, on a GPU nothing is computed here
        number = device.partition(":")[2] or "0"
        on_gpu = device.startswith("cuda")
        self.size = size
        self._device = torch.device("cuda", int(number)) if on_gpu else torch.device("cpu")
        self._shows, self._cameras = shows, tuple(cameras)
        self._dense, self._end_on_success = dense, end_on_success
        kind = REGISTERED_ENVS[task]
        # Not kind.make or gymnasium.make: they ask on standard input whether to download what is missing.
        self._environment = kind.cls(
            **(kind.default_kwargs or {}),
            num_envs=size,
            obs_mode=shows,
            reward_mode="normalized_dense" if dense else "none",
            control_mode=control_mode,
            sim_backend=f"physx_cuda:{number}" if on_gpu else "physx_cpu",
            render_backend=("none" if not cameras else f"sapien_cuda:{number}" if on_gpu else "sapien_cpu"),
            sensor_configs=dict(sensors),
        )
        self._environment._obs_mode = "none"  # until an observation is due
        self._succeeded = torch.zeros(size, dtype=torch.bool, device=self._device)
        self._info: Mapping[str, Tensor] = {}

    def reset(self, row: int, seed: int) -> None:
        """Bring one row to the initial state of `seed`; the others stay as they are."""
        # One seed for every row: ManiSkill would derive those of rows 1, 2, ... from that of row 0.
        options = {"env_idx": torch.tensor([row], device=self._device)}
        _, self._info = self._environment.reset(seed=[seed % 2**32] * self.size, options=options)
        self._succeeded[row] = False

    def step(self, actions: NDArray[np.float32], steps_left: NDArray[np.int64]) -> Happened:
        """Execute a chunk of `actions` [C, n, A]. steps_left [n]: to each row's time limit; 0 for a row where nothing runs.

        A row counts no further after its end: it gets zero actions, which hold its arm, until it is reset.
        """
        asked = torch.from_numpy(actions).to(self._device)
        left = torch.from_numpy(steps_left).to(self._device)
        rewards = torch.zeros(asked.shape[:2], device=self._device)
        executed = torch.zeros_like(left)
        terminated = torch.zeros_like(self._succeeded)
        for position in range(min(len(asked), int(steps_left.max()))):
            running = ~terminated & (executed < left)
            if self._device.type == "cpu" and not running.any():  # a question that a GPU would have to be waited for
                break
            _, reward, _, _, self._info = self._environment.step(torch.where(running[:, None], asked[position], 0.0))
            success = self._info["success"] & running
            earned = reward if self._dense else (success & ~self._succeeded)
            rewards[position] = torch.where(running, earned, 0.0)
            executed += running
            self._succeeded |= success
            if "fail" in self._info:
                terminated |= self._info["fail"] & running
            if self._end_on_success:
                terminated |= success
        rows = torch.cat([rewards, executed[None], self._succeeded[None], terminated[None]]).cpu().numpy()
        return Happened(rows[:-3], rows[-3].astype(np.int64), rows[-2].astype(np.bool_), rows[-1].astype(np.bool_))

    def observe(self, rows: Sequence[int]) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.float32]]:
        """What `rows` show now: images, camera -> uint8 [rows, H, W, 3], and states, float32 [rows, S]."""
        self._environment._obs_mode = self._shows
        try:
            seen = self._environment.get_obs(self._info)
        finally:
            self._environment._obs_mode = "none"
        chosen = torch.as_tensor(list(rows), device=self._device)
        images = {camera: seen["sensor_data"][camera]["rgb"][chosen].cpu().numpy() for camera in self._cameras}
        extra = {name: value for name, value in seen["extra"].items() if name in SEEN} if self._cameras else seen["extra"]
        numbers = torch.cat([leaf.reshape(self.size, -1).float() for leaf in _leaves({"agent": seen["agent"], "extra": extra})], 1)
        return images, numbers[chosen].cpu().numpy()

    def close(self) -> None:
        self._environment.close()


def _leaves(tree: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors of a nested dictionary, in its order, which is ManiSkill's own for a flat state."""
    for value in tree.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield value
