"""A policy server for tests: in a thread of this process, or the command in a process of its own."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlvla3.config import PolicyConfig
from rlvla3.inference.actor import Actor
from rlvla3.policies.base import Decisions, Policy
from rlvla3.policies.options import PolicyOptions
from rlvla3.policies.registry import make_policy
from rlvla3.scheduling.limits import FixedLimits, LearnedLimits
from rlvla3.serving.conversation import greeting
from rlvla3.serving.engine import Noise, ServedPolicyEngine
from rlvla3.serving.observing import Observing
from rlvla3.serving.requests import ServedRequests
from rlvla3.serving.server import PolicyServer, Served
from rlvla3.types import ActionSpace, Spaces

PATIENCE_S = 120.0
CHUNK, STATE = 3, 8
SIDE = 16
SPACES = Spaces({"agentview": (SIDE, SIDE, 3), "robot0_eye_in_hand": (SIDE, SIDE, 3)}, STATE, ActionSpace("continuous", 7), 220)
REFUSED, FAILING, INFINITE = "refuse this", "fail at this", "answer this with infinity"
"""Instructions at which EchoPolicy goes wrong."""


class EchoPolicy(Policy):
    """Answers with what it sees, so that a test knows whose answer it got: action n of a chunk is n, then the first three numbers of the state, the mean of the
    first camera, the length of the instruction, and the first number of the noise."""

    Options = PolicyOptions

    def __init__(self, spaces: Spaces = SPACES) -> None:
        super().__init__(spaces, CHUNK, PolicyOptions())
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[int] = []

    def act(self, observations, noise, explore):
        for text in observations.instructions:
            if text == REFUSED:
                raise ValueError("this instruction has too many tokens")
            if text == FAILING:
                raise RuntimeError("the policy is broken")
        self.batches.append(len(observations))
        rows = len(observations)
        actions = torch.zeros(rows, CHUNK, 7)
        actions[:, :, 0] = torch.arange(CHUNK)
        actions[:, :, 1:4] = observations.state[:, None, :3]
        actions[:, :, 4] = observations.images["agentview"].float().mean((1, 2, 3))[:, None]
        actions[:, :, 5] = torch.tensor([float("inf") if text == INFINITE else len(text) for text in observations.instructions])[:, None]
        actions[:, :, 6] = noise.reshape(rows, -1)[:, :1]
        return Decisions(actions, torch.zeros(rows, CHUNK, 7), torch.zeros(rows))

    def evaluate(self, observations, actions, trace):
        raise NotImplementedError

    def value_of(self, features):
        raise NotImplementedError

    def critic_parameters(self):
        return []


def libero_observation(seed: int = 0, side: int = SIDE, **others: Any) -> dict[str, Any]:
    """As openpi's LIBERO client sends it."""
    source = np.random.default_rng(seed)
    images = {name: source.integers(256, size=(side, side, 3), dtype=np.uint8) for name in ("observation/image", "observation/wrist_image")}
    return {**images, "observation/state": source.random(8), "prompt": "pick up the bowl", **others}


@contextmanager
def policy_server(
    policy: Policy | None = None, *, noise: Noise | None = None, token: str | None = None, batch: int | None = 1, execute: int = CHUNK
) -> Iterator[tuple[str, int, list[str]]]:
    """A server in a thread. Gives its host, its port, and the lines that it prints."""
    said: list[str] = []
    place: list[Any] = []
    there = threading.Event()

    async def run() -> None:
        actor = Actor(policy or EchoPolicy(), torch.device("cpu"), "eager", 64)
        engine = ServedPolicyEngine(actor, noise or Noise(), 1, said.append)
        limits = LearnedLimits(0.01) if batch is None else FixedLimits(batch, 0.01)
        served = Served(greeting({"policy": "echo"}, {}), Observing(actor.policy.spaces, "none", tell=said.append), execute)
        server = PolicyServer(served, ServedRequests(limits, 64), engine, token, said.append)
        place.append((asyncio.get_running_loop(), server))

        def ready(host: str, port: int) -> None:
            place.append((host, port))
            there.set()

        try:
            await server.serve("127.0.0.1", 0, ready)
        finally:
            engine.close()
            there.set()

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    assert there.wait(PATIENCE_S)
    loop, server = place[0]
    try:
        yield (*place[1], said)
    finally:
        loop.call_soon_threadsafe(server.end)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def saved_policy(folder: Path, spaces: Spaces = SPACES, name: str = "actor_critic") -> Path:
    """A small policy with random weights in `folder`."""
    torch.manual_seed(0)
    make_policy(PolicyConfig(name=name, chunk=CHUNK), spaces).save(folder, name)
    return folder


@contextmanager
def serve_process(*words: str | Path, ends: signal.Signals = signal.SIGINT) -> Iterator[tuple[int, list[str], subprocess.Popen[str]]]:
    """`rlvla3 serve` in a process of its own, on a free port. Gives the port, the lines until clients can connect, and the process. It is ended by a signal."""
    command = [sys.executable, "-m", "rlvla3", "serve", *map(str, words), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield (*_until_it_listens(process), process)
        process.send_signal(ends)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


def _until_it_listens(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    assert process.stdout is not None
    lines: Sequence[str] = []
    for line in process.stdout:
        lines = [*lines, line.rstrip()]
        if found := re.search(r"listening on ws://\S+:(\d+)", line):
            return int(found[1]), list(lines)
    raise AssertionError("\n".join(lines))
