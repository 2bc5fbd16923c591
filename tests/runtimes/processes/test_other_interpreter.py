"""Workers in another interpreter: they need little there, they are the same workers, and they end as all others do."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from rlvla3.cli import main
from rlvla3.interpreters.interpreter import find_interpreter
from rlvla3.runtimes.processes.plain_pickle import dumps
from rlvla3.runtimes.processes.process import start_worker
from rlvla3.types import Field
from tests.support.bare_python import bare_python
from tests.support.repository import python_path

LIMIT_S = 120
SHARD = ("rlvla3.runtimes.workers.shard_worker", "rlvla3.runtimes.processes.other_interpreter", "rlvla3.checking.simulator_process")
SIMULATORS = tuple(f"rlvla3.simulators.{name}.simulator" for name in ("libero", "maniskill", "metaworld", "robosuite"))
TELL = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([name for name in sys.modules if name.startswith("rlvla3")]))
"""

NEWER_THAN_3_10 = {
    "Self", "Never", "LiteralString", "NotRequired", "Required", "TypeVarTuple", "Unpack", "assert_never", "assert_type", "dataclass_transform", "override",
    "StrEnum", "ReprEnum", "verify", "EnumCheck", "Runner", "TaskGroup", "timeout_at", "Barrier", "tomllib", "ExceptionGroup", "BaseExceptionGroup", "add_note",
    "UTC", "batched", "file_digest", "chdir", "process_group"
}  # fmt: skip
NOT_CALLED = {("checksums.py", "file_digest"), ("process_tree.py", "process_group"), ("types.py", "Self")}
"""Names that a simulator's process does not use, though it imports the file."""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield bare_python(tmp_path_factory.mktemp("bare") / "environment")
    find_interpreter.cache_clear()


def imported(bare: Path) -> list[str]:
    """The modules of rlvla3 that a simulator's process imports."""
    command = [str(bare / "bin/python"), "-c", TELL, *SHARD, *SIMULATORS]
    found = subprocess.run(command, env={"PYTHONPATH": python_path()}, cwd="/", capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    modules: list[str] = json.loads(found.stdout)
    return modules


def test_a_simulators_process_needs_only_numpy_pydantic_and_psutil_and_no_new_python(bare: Path) -> None:
    for module in imported(bare):
        file = Path(sys.modules[module].__file__ or "") if module in sys.modules else None
        if file is None:
            continue
        tree = ast.parse(file.read_text(), feature_version=(3, 10))
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import) for name in node.names}
        used |= {word.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords if word.arg}
        new = {name for name in used & NEWER_THAN_3_10 if (file.name, name) not in NOT_CALLED}
        assert not new, f"{file} uses {new}, which Python 3.10 has not"


async def asked(bare: Path, log: Path, body: str, *given: Any) -> tuple[Any, int | None]:
    """What a worker says first, and its exit code after it was asked to end."""
    worker = start_worker("teller", f"tests.support.bare_python:{body}", *given, log=log, own_session=True, python=str(bare))
    answer = await asyncio.wait_for(worker.control.receive(), LIMIT_S)
    await worker.stop(LIMIT_S)
    return answer, worker.process.exitcode


def test_a_worker_gets_what_it_was_given_and_ends_when_it_is_asked(bare: Path, tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    given = {"array": array, "number": np.float64(0.5), "path": tmp_path, "field": Field((2,), np.bool_), "b": np.bool_(1)}
    (prefix, parent, leads, safe, back), code = asyncio.run(asked(bare, tmp_path / "log", "tell", given))
    assert (prefix, parent, leads, safe, code) == (str(bare), os.getpid(), True, None, 0)
    assert np.array_equal(back.pop("array"), array) and back["number"] == 0.5 and back["path"] == tmp_path and back["b"]
    assert back["field"].shape == (2,) and np.dtype(back["field"].dtype) == np.bool_


def test_an_error_of_a_worker_reaches_its_supervisor(bare: Path, tmp_path: Path) -> None:
    failed, _ = asyncio.run(asked(bare, tmp_path / "log", "fail"))
    assert failed.kind == "KeyError" and "lost" in failed.message and "KeyError" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    "value", [np.arange(4), np.zeros((0, 3), ">f4"), np.array(["a", "bc"]), np.array(5), np.float32(1), np.int64(-3), np.bool_(0), Path("/a")]
)
def test_what_is_pickled_names_nothing_of_numpys_or_pathlibs_own(value: Any) -> None:
    pickled = dumps(value)
    back = pickle.loads(pickled)
    assert type(back) is type(value) and np.array_equal(back, value) and getattr(back, "dtype", None) == getattr(value, "dtype", None)
    assert b"numpy." not in pickled and b"pathlib" not in pickled
    if isinstance(back, np.ndarray):
        assert back.flags.writeable


PARENT = """
import asyncio, os, signal, sys
from pathlib import Path
from rlvla3.runtimes.processes.process import start_worker
async def run():
    worker = start_worker("teller", "tests.support.bare_python:tell", 0, log=Path(sys.argv[2]), python=sys.argv[1])
    await worker.control.receive()
    print(worker.process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(run())
"""


def test_a_worker_ends_when_its_parent_is_killed(bare: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(bare), str(tmp_path / "log")]
    parent = subprocess.run(command, env=os.environ | {"PYTHONPATH": python_path()}, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    deadline = time.monotonic() + LIMIT_S
    while psutil.pid_exists(int(parent.stdout)) and psutil.Process(int(parent.stdout)).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_comes_to_the_same_weights_in_another_interpreter_and_replays(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path())
    recipe = {
        "simulator": {"name": "tests.support.correct:Correct", "tasks": ["near", "far"], "shards": 2, "max_steps": 6},
        "policy": {"name": "actor_critic", "chunk": 2, "options": {"hidden": 8}},
        "training": {"updates": 2, "batch": 4, "micro_batch": 5},
        "engine": {"mode": "sync"},
        "evaluation": {"episodes": 2, "before": False, "after": False},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    runs = {"ours": [], "theirs": [f"simulator.python={bare}"]}
    for name, settings in runs.items():
        assert main(["train", str(tmp_path / "recipe.yaml"), "--run-dir", str(tmp_path / name), *settings]) == 0
    ours, theirs = ((tmp_path / name / "checkpoints/000002/policy/model.safetensors").read_bytes() for name in runs)
    assert ours == theirs
    assert main(["replay", str(tmp_path / "theirs")]) == 0
