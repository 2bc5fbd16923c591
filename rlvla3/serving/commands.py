"""`rlvla3 serve`: from the words of the command line to a server that runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rlvla3.errors import RecipeError
from rlvla3.instructions import instruction_fault
from rlvla3.listening import check_reach, listen, token_of
from rlvla3.observability.progress_line import progress
from rlvla3.processing.specification import Turn
from rlvla3.scheduling.limits import FixedLimits, LearnedLimits

if TYPE_CHECKING:
    from rlvla3.inference.actor import Actor
    from rlvla3.serving.served import Subject

INSTALL = "pip install 'rlvla3[serve]' brings what is missing"
NEEDED = ("websockets", "msgpack", "PIL")

LARGEST_BATCH = 32
"""Decisions at once, where --max-batch does not say it. A GPU keeps a CUDA graph for each size up to it."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What the command line says of a server.

    token: `new`, the token, or None. keys: words CAMERA=NAME, state=NAME+NAME, instruction=NAME. max_batch: B_max; None means that it is learned.
    max_wait_ms: T_max. execute: actions of a chunk that clients of vla-eval get; None means all.
    """

    host: str
    port: int
    token: str | None
    token_file: Path | None
    device: str
    threads: int
    max_batch: int | None
    max_wait_ms: float
    seed: int | None
    deterministic: bool
    explore: bool
    keys: Sequence[str]
    turn: Turn | None
    image_size: int | None
    instruction: str | None
    execute: int | None


def serve(start: Path, overrides: Sequence[str], serving: Serving, trust: bool = False) -> None:
    """Serve the policy of `start` until a signal comes. Raises RecipeError where it cannot be served as asked."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise RecipeError(f"rlvla3 serve needs the packages websockets, msgpack and pillow, and {missing[0]} is not installed: {INSTALL}")
    from rlvla3.serving.served import find_subject

    token = token_of(serving.token, serving.token_file)
    check_reach(serving.host, token, "could drive your robot")
    _check_machine(serving)
    subject = find_subject(start, overrides, serving.image_size, serving.turn, trust)
    keys = _keys(serving.keys, list(subject.spaces.cameras))
    if serving.execute is not None and serving.execute > subject.config.chunk:
        raise RecipeError(
            f"--execute {serving.execute} is more than the {subject.config.chunk} actions of a chunk of this policy: give {subject.config.chunk} or less"
        )
    asyncio.run(_run(subject, serving, keys, token))


def _check_machine(serving: Serving) -> None:
    """Refuse what would fail only after the policy was loaded, which may take minutes. Raises RecipeError."""
    for socket in listen(serving.host, serving.port):
        socket.close()  # clients that come before the policy is there are refused, and try again
    if serving.threads > (cores := os.cpu_count() or 1):
        raise RecipeError(f"--threads {serving.threads} is more than the {cores} cores of this machine: give {cores} or less")
    if serving.instruction is not None and (fault := instruction_fault(serving.instruction)):
        raise RecipeError(f"--instruction: {fault}")
    if serving.device not in ("auto", "cpu"):
        from rlvla3.devices import choose_device

        choose_device(serving.device, "--device")


async def _run(subject: Subject, serving: Serving, keys: Mapping[str, Sequence[str]], token: str | None) -> None:
    from rlvla3.serving.conversation import greeting
    from rlvla3.serving.engine import Noise, ServedPolicyEngine
    from rlvla3.serving.observing import Observing
    from rlvla3.serving.requests import ServedRequests
    from rlvla3.serving.server import PolicyServer, Served

    thread = ThreadPoolExecutor(1, "device")
    with progress("loading the policy, and capturing CUDA graphs where there is a GPU"):
        actor = await asyncio.get_running_loop().run_in_executor(thread, _actor, subject, serving)
    recipe = subject.recipe
    seed = serving.seed if serving.seed is not None else recipe.seed if recipe else 0
    wait = serving.max_wait_ms / 1000
    requests = ServedRequests(LearnedLimits(wait) if serving.max_batch is None else FixedLimits(serving.max_batch, wait), actor.largest)
    for size, taken in actor.measured.items():
        requests.measured(size, taken)
    engine = ServedPolicyEngine(actor, Noise(seed, serving.explore, serving.deterministic), thread, _say)
    observing = Observing(subject.spaces, subject.turn, keys, serving.instruction, _say)
    served = Served(greeting(subject.described(), subject.asked_of_benchmarks()), observing, serving.execute or subject.config.chunk)

    def ready(host: str, port: int) -> None:
        for line in _introduction(subject, serving, actor, token, host, port):
            _say(line)

    try:
        await engine.warm()
        await PolicyServer(served, requests, engine, token, _say).serve(serving.host, serving.port, ready)
    finally:
        engine.close()
        thread.shutdown(wait=False, cancel_futures=True)


def _actor(subject: Subject, serving: Serving) -> Actor:
    """The policy on its device, ready to act. To be called in the thread that works on the device."""
    import torch

    from rlvla3.devices import choose_device, work_on
    from rlvla3.inference.actor import make_actor

    torch.set_num_threads(serving.threads)
    device = choose_device(serving.device, "--device")
    work_on(device)
    policy = subject.build()
    recipe = subject.recipe
    policy.compute_in(recipe.training.precision if recipe else "fp32", device)
    policy.to(device)
    actor = make_actor(policy, device, recipe.policy.inference if recipe else "auto", serving.max_batch or LARGEST_BATCH)
    for notice in actor.notices:
        _say(notice)
    return actor


def _introduction(subject: Subject, serving: Serving, actor: Actor, token: str | None, host: str, port: int) -> Iterator[str]:
    spaces, action = subject.spaces, subject.spaces.action
    cameras = ", ".join(f"{camera} {height} x {width}" for camera, (height, width, _) in spaces.cameras.items()) or "no camera"
    yield f"serving {subject.config.name} from {subject.place} on {actor.device}"
    yield f"it sees {cameras} and a state of {spaces.state} numbers; it answers with {subject.config.chunk} actions of {action.size} numbers"
    if spaces.cameras:
        known = {"none": "as they come", None: "refused until --turn is given, because it is not known how this policy's frames were turned"}
        yield f"frames of openpi's and vla-eval's clients are {known.get(subject.turn, f'{subject.turn} first, as this policy was trained with them')}"
    address = f"[{host}]" if ":" in host else host
    yield f"listening on ws://{address}:{port} for openpi's client and for vla-eval; Ctrl-C ends it"
    if serving.token == "new":
        yield f"the token is {token}: clients send it as api_key, or as ?token={token} in the address"


def _keys(words: Sequence[str], cameras: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The names that clients use, from words such as agentview=observation/image and state=joints+gripper. Raises RecipeError."""
    known, keys = [*cameras, "state", "instruction"], {}
    for word in words:
        name, sign, path = word.partition("=")
        parts = tuple(path.split("+")) if name == "state" else (path,)
        if not sign or name not in known or not all(parts) or name in keys:
            raise RecipeError(
                f"--key {word:.80}: give each of {', '.join(known)} at most once, as NAME=WHAT_CLIENTS_CALL_IT, such as {known[0]}=observation/image"
            )
        keys[name] = parts
    return keys


def _say(line: str) -> None:
    """A line for the terminal. The server goes on where nobody can read it: a closed terminal is no reason to stop a robot."""
    with suppress(OSError, ValueError):
        print(line, flush=True)
