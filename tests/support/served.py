"""A policy server for tests: in a thread of this process, or the command in a process of its own."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rlvla3.config import PolicyConfig
from rlvla3.loops import PolicyEngine
from rlvla3.policies.noise import decision_noise
from rlvla3.scheduling.limits import FixedLimits, LearnedLimits
from rlvla3.serving.conversation import greeting
from rlvla3.serving.messages import MessageError
from rlvla3.serving.observing import Observing
from rlvla3.serving.requests import Batch, Request, ServedRequests
from rlvla3.serving.server import PolicyServer, Served
from rlvla3.types import ActionSpace, Spaces

PATIENCE_S = 240.0
CHUNK, STATE = 3, 8
SIDE = 32
SPACES = Spaces({"agentview": (SIDE, SIDE, 3), "robot0_eye_in_hand": (SIDE, SIDE, 3)}, STATE, ActionSpace("continuous", 7), 220)
REFUSED = "refuse this"
"""An instruction that EchoEngine refuses."""


class EchoEngine:
    """Answers with what it sees, so that a test knows whose answer it got, and without torch: action n of a chunk is n, then the first three numbers of the
    state, the mean of the first camera, the length of the instruction, and the first number of the noise.

    batches: the sizes of all batches so far.
    """

    version, beside_host = 0, False

    def __init__(self) -> None:
        self.batches: list[int] = []

    async def load_weights(self, batch: Batch) -> None:
        raise AssertionError

    async def begin(self, batch: Batch) -> None:
        """As on a CPU, all happens in `end`."""

    async def end(self, batch: Batch) -> None:
        self.batches.append(len(batch))
        await asyncio.sleep(0.002)

    def write(self, batch: Batch) -> None:
        for request in batch:
            if request.observation.instruction == REFUSED:
                request.fail(MessageError("this instruction has too many tokens"))
            else:
                request.settle(self._echo(request), len(batch), time.monotonic())

    @staticmethod
    def _echo(request: Request) -> np.ndarray:
        seen, actions = request.observation, np.zeros((CHUNK, 7), np.float32)
        actions[:, 0] = np.arange(CHUNK)
        actions[:, 1:4] = seen.state[:3]
        actions[:, 4] = seen.images["agentview"].mean()
        actions[:, 5] = len(seen.instruction)
        actions[:, 6] = decision_noise(0, [(0, *request.decision)], (1,))[0, 0]
        return actions


def libero_observation(seed: int = 0, side: int = SIDE, **others: Any) -> dict[str, Any]:
    """As openpi's LIBERO client sends it."""
    source = np.random.default_rng(seed)
    images = {name: source.integers(256, size=(side, side, 3), dtype=np.uint8) for name in ("observation/image", "observation/wrist_image")}
    return {**images, "observation/state": source.random(8), "prompt": "pick up the bowl", **others}


@contextmanager
def policy_server(
    engine: PolicyEngine | None = None, *, spaces: Spaces = SPACES, token: str | None = None, batch: int | None = 1, execute: int = CHUNK
) -> Iterator[tuple[str, int, list[str]]]:
    """A server in a thread. Gives its host, its port, and the lines that it prints."""
    said: list[str] = []
    place: list[Any] = []
    there = threading.Event()

    async def run() -> None:
        limits = LearnedLimits(0.01) if batch is None else FixedLimits(batch, 0.01)
        served = Served(greeting({"policy": "echo"}, {}), Observing(spaces, "none", tell=said.append), execute)
        server = PolicyServer(served, ServedRequests(limits, 64), engine or EchoEngine(), token, said.append)
        place.append((asyncio.get_running_loop(), server))

        def ready(host: str, port: int) -> None:
            place.append((host, port))
            there.set()

        try:
            await server.serve("127.0.0.1", 0, ready)
        finally:
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
    import torch

    from rlvla3.policies.registry import make_policy

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
