"""Runs the sections one by one, each in a process of its own, within a budget of time.

Invariants:
- the JSON file is written after every figure, whole or not at all. So whatever ends the command, the file has all figures until then;
- a section that fails, hangs or breaks the GPU's state for its process does not touch the others;
- every section that has not run, and every figure that was left out, is listed with the reason.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import psutil

from rlvla3.benchmarks.gpu.sections import SECTIONS, Section, seconds_for
from rlvla3.benchmarks.gpu.sheet import NO_TIME, Sheet
from rlvla3.benchmarks.gpu.sizes import FULL, Sizes, sizes_for
from rlvla3.errors import WorkerError, described, explanation
from rlvla3.observability.run_directory import complete_file
from rlvla3.runtimes.processes.main_module import main_module_hidden

GRACE_S = 5.0
"""A section that has not ended so many seconds after its time is stopped, and its process is waited for as long."""


class Reader(Protocol):
    """Is told of what happens."""

    def begins(self, section: Section, seconds: float) -> None: ...
    def ended(self, section: Section, result: Mapping[str, Any], sizes: Sizes) -> None: ...


class Measurement:
    """One run of the command. results: the content of the JSON file.

    A section's result has `state`, `seconds`, `figures` and `not_run`. States: `done`; `running` (the command was ended meanwhile); `stopped: time`;
    `not run: time`; `failed: ` and why.
    """

    def __init__(self, minutes: float, path: Path, reader: Reader, only: Sequence[str] = (), sizes: Callable[[str | None], Sizes] = sizes_for) -> None:
        self._end, self._path, self._reader, self._only, self._choose = time.monotonic() + 60 * minutes, path, reader, only, sizes
        self.results: dict[str, Any] = {"size": None, "gpu": None, "minutes": minutes, "began": time.strftime("%Y-%m-%d %H:%M:%S"), "sections": {}}

    def run(self, sections: Sequence[Section] = SECTIONS) -> None:
        """Run the sections. The first one is `machine`: it says whether there is a GPU. Raises WorkerError if it fails."""
        chosen = [section for section in sections if section.name == "machine" or not self._only or section.name in self._only]
        sizes = FULL  # until it is known whether there is a GPU
        for number, section in enumerate(chosen):
            seconds = seconds_for(section, chosen[number + 1 :], self._end - time.monotonic(), sizes)
            if seconds is None:
                self._note(section, {"state": f"not run: {NO_TIME}", "seconds": 0.0, "figures": {}, "not_run": {}})
            else:
                self._reader.begins(section, seconds)
                self._run_one(section, sizes, seconds)
            result = self.results["sections"][section.name]
            if section.name == "machine":
                if result["state"] != "done":
                    raise WorkerError(f"the machine could not be looked at ({result['state']}): give more --minutes, or read the error above")
                self.results["gpu"] = result["figures"]["gpu"]["name"]
                sizes = self._choose(self.results["gpu"])
                self.results["size"] = sizes.name
            self._reader.ended(section, result, sizes)

    def _run_one(self, section: Section, sizes: Sizes, seconds: float) -> None:
        """Run a section until it ends, or until its time is over."""
        spawn = multiprocessing.get_context("spawn")
        figures, theirs = spawn.Pipe(duplex=False)
        began = time.monotonic()
        earlier = {name: result["figures"] for name, result in self.results["sections"].items()}
        result: dict[str, Any] = {"state": "running", "seconds": 0.0, "figures": {}, "not_run": {}}
        process = spawn.Process(target=work, args=(section, sizes, earlier, self._path, began + seconds, theirs), name=section.name)
        with main_module_hidden():
            process.start()
        theirs.close()
        try:
            while figures.poll(max(began + seconds + GRACE_S - time.monotonic(), 0)):
                try:
                    result |= figures.recv()
                except EOFError:  # the process has ended
                    break
                self._note(section, result | {"seconds": round(time.monotonic() - began, 1)})
            else:
                result["state"] = f"stopped: {NO_TIME}"
        finally:
            _end(process.pid)
            process.join(GRACE_S)
        if result["state"] == "running":
            result["state"] = f"failed: its process ended with {process.exitcode}"
        self._note(section, result | {"seconds": round(time.monotonic() - began, 1)})

    def _note(self, section: Section, result: Mapping[str, Any]) -> None:
        self.results["sections"][section.name] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with complete_file(self._path) as beside:
            beside.write_text(json.dumps(self.results, indent=2) + "\n")


def work(section: Section, sizes: Sizes, earlier: Mapping[str, Any], path: Path, until: float, figures: Connection) -> None:
    """The body of a section's process: measure, send each figure, then send the final state."""
    os.environ["OMP_NUM_THREADS"] = "1"  # as in every worker; torch reads it when it is imported
    sheet = Sheet(sizes, earlier, path, until, figures.send)
    module, _, function = (section.body or f"rlvla3.benchmarks.gpu.{section.name}:measure").partition(":")
    try:
        getattr(import_module(module), function)(sheet)
    except Exception as error:
        if (said := explanation(error)) is None:
            traceback.print_exc()
        figures.send({"state": f"failed: {said or described(error)}"})
    else:
        figures.send({"state": "done"})


def _end(pid: int | None) -> None:
    """End a section's process and all processes that it has started."""
    try:
        process = psutil.Process(pid)
        processes = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in processes:
        try:
            one.kill()
        except psutil.NoSuchProcess:  # it has ended by itself
            continue
