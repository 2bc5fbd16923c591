"""A batch of environments of one ManiSkill task that step together, as tensors on one device. Each row of the batch is one environment.

Invariants:
- an initial state depends only on the ticket, not on the row: each row is reset alone, and every random generator is seeded with the ticket's seed before;
- the results of a chunk stay on the device until the chunk has ended; then one transfer brings all of them to the host;
- inside a chunk, nothing is rendered and no observation is made.

Importing this file imports torch and mani_skill. They read environment variables when they are imported, so call `simulator.prepare_process` first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mani_skill.utils.registration import REGISTERED_ENVS
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.simulators.maniskill.tasks import EXTRA_SHOWN_WITH_IMAGES


class BatchOutcomes(NamedTuple):
    """The results of one chunk in the `n` rows of a batch.

    rewards: float32 [C, n]. executed: int64 [n], the number of steps that count in each row. success_once: bool [n], whether any step of the episode so far was
    a success. success_at_end: bool [n], whether the newest one was. Both are ManiSkill's names. terminated: bool [n].
    """

    rewards: NDArray[np.float32]
    executed: NDArray[np.int64]
    success_once: NDArray[np.bool_]
    success_at_end: NDArray[np.bool_]
    terminated: NDArray[np.bool_]


class ParallelScenes:
    """`size` environments of `task`.

    device: "cpu", or a GPU such as "cuda:0". obs_mode: ManiSkill's `obs_mode` at a decision: "state_dict" for the full state, or a mode that renders `cameras`.
    sensors: ManiSkill's `sensor_configs`. dense: whether rewards are ManiSkill's dense ones; otherwise +1 at the first success.

    Example:
        batch = ParallelScenes("PickCube-v1", size=256, device="cuda:0", control_mode="pd_joint_delta_pos", dense=True,
                      end_on_success=True, obs_mode="state_dict", cameras=(), sensors={})
        batch.reset(row=3, seed=7)
        images, states = batch.observe([3])
        outcomes = batch.step(actions, steps_left)
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
        obs_mode: str,
        cameras: Sequence[str],
        sensors: Mapping[str, Any],
    ) -> None:
        torch.set_num_threads(1)  # on a CPU, a shard is one of many processes; on a GPU, the CPU computes nothing
        number = device.partition(":")[2] or "0"
        on_gpu = device.startswith("cuda")
        self.size = size
        self._device = torch.device("cuda", int(number)) if on_gpu else torch.device("cpu")
        self._obs_mode, self._cameras = obs_mode, tuple(cameras)
        self._dense, self._end_on_success = dense, end_on_success
        kind = REGISTERED_ENVS[task]
        # Not kind.make or gymnasium.make: they ask on standard input whether to download missing assets.
        self._environment = kind.cls(
            **(kind.default_kwargs or {}),
            num_envs=size,
            obs_mode=obs_mode,
            reward_mode="normalized_dense" if dense else "none",
            control_mode=control_mode,
            sim_backend=f"physx_cuda:{number}" if on_gpu else "physx_cpu",
            render_backend=("none" if not cameras else f"sapien_cuda:{number}" if on_gpu else "sapien_cpu"),
            sensor_configs=dict(sensors),
        )
        self._environment._obs_mode = "none"  # `observe` sets it when an observation is due
        self._succeeded = torch.zeros(size, dtype=torch.bool, device=self._device)
        self._info: Mapping[str, Tensor] = {}

    def reset(self, row: int, seed: int, initial_state: int | None = None) -> None:
        """Bring one row to an initial state. The other rows stay as they are. initial_state: its number in the task's fixed set. None: `seed` draws it."""
        # The same seed for every row: otherwise ManiSkill derives the seeds of rows 1, 2, ... from the seed of row 0.
        options = {"env_idx": torch.tensor([row], device=self._device)}
        if initial_state is not None:
            options["episode_id"] = torch.tensor([initial_state], device=self._device)
        _, self._info = self._environment.reset(seed=[seed % 2**32] * self.size, options=options)
        self._succeeded[row] = False

    def step(self, actions: NDArray[np.float32], steps_left: NDArray[np.int64]) -> BatchOutcomes:
        """Execute a chunk of `actions` [C, n, A]. steps_left [n]: the steps to each row's time limit; 0 for a row without an episode.

        After its end a row no longer counts. It gets zero actions, which hold its arm still, until it is reset.
        """
        chunk = torch.from_numpy(actions).to(self._device)
        limits = torch.from_numpy(steps_left).to(self._device)
        rewards = torch.zeros(chunk.shape[:2], device=self._device)
        executed = torch.zeros_like(limits)
        terminated, newest = torch.zeros_like(self._succeeded), torch.zeros_like(self._succeeded)
        for position in range(min(len(chunk), int(steps_left.max()))):
            running = ~terminated & (executed < limits)
            if self._device.type == "cpu" and not running.any():  # not on a GPU: the host would have to wait for the answer
                break
            _, reward, _, _, self._info = self._environment.step(torch.where(running[:, None], chunk[position], 0.0))
            success = self._info["success"] & running
            earned = reward if self._dense else (success & ~self._succeeded)
            rewards[position] = torch.where(running, earned, 0.0)
            executed += running
            self._succeeded |= success
            newest = torch.where(running, success, newest)
            if "fail" in self._info:
                terminated |= self._info["fail"] & running
            if self._end_on_success:
                terminated |= success
        rows = torch.cat([rewards, executed[None], self._succeeded[None], newest[None], terminated[None]]).cpu().numpy()
        once, at_end, ended = rows[-3:].astype(np.bool_)
        return BatchOutcomes(rows[:-4], rows[-4].astype(np.int64), once, at_end, ended)

    def observe(self, rows: Sequence[int]) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.float32]]:
        """The observations of `rows` now: images, camera -> uint8 [rows, H, W, 3], and states, float32 [rows, S]."""
        self._environment._obs_mode = self._obs_mode
        try:
            shown = self._environment.get_obs(self._info)
        finally:
            self._environment._obs_mode = "none"
        chosen = torch.as_tensor(list(rows), device=self._device)
        images = {camera: shown["sensor_data"][camera]["rgb"][chosen].cpu().numpy() for camera in self._cameras}
        extra = {name: value for name, value in shown["extra"].items() if name in EXTRA_SHOWN_WITH_IMAGES} if self._cameras else shown["extra"]
        states = torch.cat([tensor.reshape(self.size, -1).float() for tensor in _tensors({"agent": shown["agent"], "extra": extra})], 1)
        return images, states[chosen].cpu().numpy()

    def close(self) -> None:
        self._environment.close()


def _tensors(tree: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors of a nested dictionary, in its order. ManiSkill's own flat state has the same order."""
    for value in tree.values():
        if isinstance(value, Mapping):
            yield from _tensors(value)
        else:
            yield value
