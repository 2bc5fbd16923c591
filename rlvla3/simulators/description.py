"""What is known of a simulator before it runs: its description. Commands, checks, runtimes and hosts of a cluster all ask here.

A simulator of the user's own is built to be described. This happens once, in a process of its own (describing.py). There it may change its folder, print, close
its output or end the process, and nothing of ours is touched. Simulators of this package say what they show without being built, so they need no process, if
they have no interpreter of their own.

Invariants:
- the modules that a recipe names as simulators are imported in such a process and in shards, never in the process that asks;
- a description is data: what comes from the process is read as JSON and checked. Nothing is unpickled;
- the process ends within `simulator.build_timeout_s`, and all that it has started ends with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.interpreters.interpreter import find_interpreter, program
from rlvla3.process_ends import ending_in_words
from rlvla3.process_tree import descriptor_of, end_tree, marked, new_mark
from rlvla3.simulators.action_meaning import ActionMeaning
from rlvla3.simulators.builtin import BUILT_IN
from rlvla3.simulators.registry import checked_options, describe_simulator, simulator_class
from rlvla3.types import Spaces

NOT_DESCRIBED = {"shards", "cores", "devices", "weight", "task_weights", "timeout_s", "build_timeout_s", "check_frames", "delay"}
"""Settings that a description does not depend on."""

PATIENCE_S = 2.0
"""How long the process may take to end: by itself when it has said everything, and when it was killed."""

SHOWN_LINES = 12
"""How many of the last lines that the process printed are shown when it fails."""

FRAME = '  File "'
OWN_FRAME = f"{FRAME}{Path(__file__).parents[1]}{os.sep}"
"""How a line of a stack begins, and one of this package."""


@dataclass(frozen=True)
class Description:
    """What the simulator of some settings says of itself.

    draws_with_mujoco: see Simulator. control_mode, mirrored: the options of these names, where it has them. meaning: of its actions.
    """

    spaces: Spaces
    draws_with_mujoco: bool = False
    control_mode: str | None = None
    mirrored: bool = False
    meaning: ActionMeaning = field(default_factory=ActionMeaning)


_READER = TypeAdapter(Description)
_known: dict[str, Description] = {}


def described(config: SimulatorConfig) -> Description:
    """The description of one simulator. Raises RecipeError for every mistake that can be found without running it."""
    (description,) = all_described([config])
    return description


def all_described(configs: Sequence[SimulatorConfig]) -> list[Description]:
    """The descriptions of simulators, in the same order. Those that are not known are made, those of different names side by side."""
    unknown = {key(config): config for config in configs if key(config) not in _known}
    for unknown_key, config in unknown.items():
        if config.name in BUILT_IN and not config.python:
            _known[unknown_key] = describe_here(config)
    others: dict[tuple[str, str], list[SimulatorConfig]] = {}
    for unknown_key, config in unknown.items():
        if unknown_key not in _known:
            others.setdefault((config.name, config.python), []).append(config)
    with _started(list(others.values())) as describers:
        for describer in describers:
            for config, description in zip(describer.configs, describer.descriptions(), strict=True):
                _known[key(config)] = description
    return [_known[key(config)] for config in configs]


def known_descriptions() -> Mapping[str, Description]:
    """All descriptions that were made here, for another process of the run."""
    return dict(_known)


def remember(descriptions: Mapping[str, Description]) -> None:
    """Use descriptions that another process of the run has made."""
    _known.update(descriptions)


def forget() -> None:
    """Describe every simulator anew from now on: its files may have been changed since."""
    _known.clear()
    find_interpreter.cache_clear()


def key(config: SimulatorConfig) -> str:
    """Two simulators with the same key have the same description."""
    return config.model_dump_json(exclude=NOT_DESCRIBED)


def describe_here(config: SimulatorConfig) -> Description:
    """The description, made in this process. Raises RecipeError."""
    simulator = simulator_class(config.name)
    spaces = describe_simulator(config)
    options = checked_options(simulator, config)
    draws = simulator.draws_with_mujoco or (config.name.startswith("gymnasium:") and bool(spaces.cameras) and "mujoco" in sys.modules)
    return Description(spaces, draws, getattr(options, "control_mode", None), getattr(options, "mirrored", False), simulator.action_meaning(config))


@contextmanager
def _started(groups: Sequence[Sequence[SimulatorConfig]]) -> Iterator[list[_Describer]]:
    """A process for each group, all of one name. All have ended afterwards."""
    describers: list[_Describer] = []
    try:
        describers += [_Describer(group) for group in groups]
        yield describers
    finally:
        for describer in describers:
            describer.end()


class _Describer:
    """The process that describes simulators of one name. It works from the start on."""

    def __init__(self, configs: Sequence[SimulatorConfig]) -> None:
        self.configs, self._mark = configs, new_mark()
        self._name, self._limit = configs[0].name, max(config.build_timeout_s for config in configs)
        self._printed: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by end()
        self._answer, theirs = os.pipe()
        with marked(self._mark):
            command, variables = program(configs[0].python, "rlvla3.simulators.describing:main")
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=self._printed, stderr=self._printed, pass_fds=[theirs], start_new_session=True, env=variables
            )
        os.close(theirs)
        self._ended, self._has_answered = descriptor_of(self._process.pid), False
        self._end = time.monotonic() + self._limit
        asked = [config.model_dump(mode="json") for config in configs]
        request = {"parent": os.getpid(), "answer": theirs, "seconds": self._limit, "simulators": asked}
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, as `descriptions` will find
            self._process.stdin.write(json.dumps(request).encode())
            self._process.stdin.close()

    def descriptions(self) -> list[Description]:
        """What the process has said. Raises RecipeError for a mistake in the simulator, and where the process hung or ended."""
        line = self._read()
        if line is None:
            raise RecipeError(
                f"simulator.name={self._name} was not built within simulator.build_timeout_s={self._limit:g} s, and its process was killed: raise the limit "
                f"if it is only slow{self._last_lines()}"
            )
        self._has_answered = line.endswith(b"\n")
        if not self._has_answered:
            raise RecipeError(f"simulator.name={self._name} lost its process when it was built: {self._ending()}{self._last_lines()}")
        answer = json.loads(line)
        if "refused" in answer:
            raise RecipeError(answer["refused"])
        if "failed" in answer:
            raise RuntimeError(f"the process that describes {self._name} failed:\n{answer['failed']}")
        return [self._checked(described) for described in answer["described"]]

    def end(self) -> None:
        """End the process and all that it has started. One that has answered may first end by itself."""
        if self._has_answered and self._ended is not None:
            wait([self._ended], PATIENCE_S)
        end_tree(self._mark, leader=self._process.pid)
        self._process.kill()  # it has ended, except where processes cannot be found by their marks
        with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel, and nobody waits for that
            self._process.wait(PATIENCE_S)
        self._printed.close()
        os.close(self._answer)
        if self._ended is not None:
            os.close(self._ended)

    def _read(self) -> bytes | None:
        """The line that the process writes. It is cut short where the process has ended, and None where the process hangs.

        The end of the pipe does not say that the process has ended: what it has started may hold the pipe open.
        """
        line = b""
        watched = [self._answer, *([] if self._ended is None else [self._ended])]
        while not line.endswith(b"\n"):
            ready = wait(watched, max(0.0, self._end - time.monotonic()))
            if not ready:
                return None
            part = os.read(self._answer, 1 << 16) if self._answer in ready else b""
            if not part:
                break
            line += part
        return line

    def _checked(self, described: Any) -> Description:
        try:
            return _READER.validate_python(described)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise RecipeError(
                f"simulator.name={self._name} describes itself with {place}={first['input']!r:.80}, which does not fit ({first['msg']}): see "
                f"rlvla3.types.Spaces for what it must say"
            ) from error

    def _ending(self) -> str:
        try:
            return ending_in_words(self._process.wait(PATIENCE_S))
        except subprocess.TimeoutExpired:
            return "it closed what it answers with"

    def _last_lines(self) -> str:
        self._printed.seek(0)
        lines = [line for line in self._printed.read().decode(errors="replace").splitlines() if line.strip()]
        while len(lines) > 1 and lines[-1].startswith(OWN_FRAME) and lines[-2].startswith(FRAME):  # the end of a stack: how rlvla3 came to call it
            lines.pop()
        return ". The last it printed:\n" + "\n".join(lines[-SHOWN_LINES:]) if lines else ". It printed nothing"


def plain(value: Any) -> Any:
    """`value` as JSON has it: lists, mappings, numbers and texts."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value
