"""Errors: which ones explain themselves, and what a user sees of an error in any worker, on one host and on Ray."""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import pkgutil
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import rlvla3
from rlvla3.errors import ExplainedError, WorkerError, explanation
from rlvla3.runtimes.processes.control import Control, Stop, Stopped
from rlvla3.runtimes.processes.messages import Failed
from rlvla3.runtimes.processes.process import start_worker
from rlvla3.runtimes.supervision.host_supervisor import _error
from tests.support.command_line import rlvla3_process
from tests.support.failing import message_of
from tests.support.processes import PATIENCE_S
from tests.support.runs import LIMIT_S, countdown
from tests.support.thorough import thorough

pytestmark = pytest.mark.usefixtures("no_run_outlives_its_test")

SIGNALS = {"CallFailed", "NotApplicable", "Stopped", "Interrupted", "YamlProblem", "ReturnedAnother"}
"""Exceptions that never leave the code that raises them: no user sees them."""

EXPLAINED = (
    "rlvla3.training.objective:LearnerError",
    "rlvla3.policies.base:PolicyError",
    "rlvla3.simulators.base:SimulatorError",
    "rlvla3.training.checkpoint:CheckpointError",
    "rlvla3.links.weights.versions:WeightsError",
    "rlvla3.training.ranks:RankLost",
)
OURS = "builtins:ValueError"
"""A mistake of ours: its message is not enough, so it comes with its traceback."""


@cache
def errors() -> dict[str, type[Exception]]:
    """Every exception class that a module of the package defines, by module:Class."""
    found: dict[str, type[Exception]] = {}
    for module in pkgutil.walk_packages(rlvla3.__path__, "rlvla3."):
        try:
            contents = vars(importlib.import_module(module.name))
        except ImportError as error:
            assert (error.name or "").partition(".")[0] != "rlvla3", error  # else an optional package is not installed
            continue
        for value in contents.values():
            if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == module.name:
                found[f"{module.name}:{value.__name__}"] = value
    return found


def failed(error: str, explained: bool) -> Failed:
    kind = error.partition(":")[2]
    return Failed(kind, message_of(error), f"Traceback (most recent call last):\n  {kind}: {message_of(error)}\n", explained)


def test_every_error_of_the_package_explains_itself() -> None:
    assert {name for name, error in errors().items() if not issubclass(error, ExplainedError)} == {
        name for name in errors() if name.partition(":")[2] in SIGNALS
    }
    assert set(EXPLAINED) <= set(errors())
    for name, error in errors().items():
        if issubclass(error, ExplainedError):
            assert explanation(error("a message")) == "a message", name
            assert type(error("a message")) is error
    for other in (ValueError("x"), RuntimeError("x"), AssertionError("x"), KeyError("x")):
        assert explanation(other) is None


@pytest.mark.parametrize("error", [EXPLAINED[0], OURS, *(pytest.param(error, marks=pytest.mark.slow) for error in EXPLAINED[1:])])
def test_a_worker_process_says_whether_its_error_explains_itself(error: str, tmp_path: Path) -> None:
    async def hear() -> Failed:
        worker = start_worker("failing", "tests.support.failing:fail", error, log=tmp_path / "log")
        try:
            message = await asyncio.wait_for(worker.control.receive(), PATIENCE_S)
            assert isinstance(message, Failed)
            return message
        finally:
            await worker.stop(PATIENCE_S)

    message = asyncio.run(hear())
    assert (message.kind, message.message, message.explained) == (error.partition(":")[2], message_of(error), error != OURS)
    assert message.traceback.startswith("Traceback") and "raise_it" in message.traceback
    assert message_of(error) in (tmp_path / "log").read_text()


@pytest.mark.parametrize("explained", [True, False])
def test_a_supervisor_passes_a_message_on_alone_where_it_explains_itself(explained: bool, tmp_path: Path) -> None:
    worker: Any = SimpleNamespace(log=tmp_path / "trainer.log")
    said = str(_error("trainer", failed(EXPLAINED[0], explained), worker))
    if explained:
        assert said == message_of(EXPLAINED[0])
    else:
        assert said.startswith("the trainer failed with LearnerError: ") and "Traceback" in said and str(worker.log) in said


# What the user sees


def refusal(folder: Path, recipe: dict[str, Any]) -> str:
    """What `rlvla3 train` says on stderr, which is one message, when it ends with the exit status of a refusal."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    ended = rlvla3_process("train", folder / "recipe.yaml", "--run-dir", folder / "run", timeout_s=LIMIT_S)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert ended.stderr.startswith("rlvla3: ") and ended.stderr.count("rlvla3: ") == 1, ended.stderr
    assert "Traceback" not in ended.stdout
    return ended.stderr.removeprefix("rlvla3: ").strip()


def failing_policy(error: str, worker: str) -> dict[str, Any]:
    return countdown(policy={"name": "tests.support.failing_policy:FailingPolicy", "options": {"error": error, "worker": worker}}, engine={"mode": "sync"})


def test_a_loss_that_is_not_finite_is_explained_to_the_user(tmp_path: Path) -> None:
    """A real training run, whose values are too large for the critic's loss."""
    recipe = countdown(policy={"name": "tests.support.failing_policy:Overflowing"}, engine={"mode": "sync"})
    said = refusal(tmp_path, recipe)
    assert said.startswith("update 0 has a loss of ")
    assert "Traceback" not in said
    assert "a lower training.learning_rate (now 0.0001), training.critic.learning_rate (now 0.001) or training.gradient_clip (now 0.5)" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "worker"),
    [
        ("rlvla3.policies.base:PolicyError", "generator"),
        ("rlvla3.training.ranks:RankLost", "trainer"),
        *thorough(("rlvla3.training.checkpoint:CheckpointError", "trainer"), ("rlvla3.links.weights.versions:WeightsError", "trainer")),
    ],
)
def test_what_explains_itself_in_a_generator_or_a_trainer_reaches_the_user_alone(error: str, worker: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, failing_policy(error, worker)) == message_of(error)


@pytest.mark.slow
@pytest.mark.parametrize("worker", ["trainer", *thorough("generator")])
def test_a_mistake_of_ours_reaches_the_user_with_its_traceback(worker: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, failing_policy(OURS, worker))
    assert said.startswith(f"the {worker}") and f"failed with ValueError: {message_of(OURS)}\nTraceback (most recent call last):" in said
    assert "raise_it" in said and worker in said.partition("Its output is in ")[2]


@pytest.mark.slow
@pytest.mark.parametrize("error", ["rlvla3.simulators.base:SimulatorError", OURS])
def test_a_simulator_that_cannot_be_built_is_named_with_its_error(error: str, tmp_path: Path) -> None:
    simulator = {"name": "tests.support.failing:FailsInAShard", "options": {"kwargs": {"error": error}}, "shards": 1}
    said = refusal(tmp_path, countdown(simulator=simulator))
    assert said.startswith("shard 0 could not be started: ") and message_of(error) in said and "Traceback" not in said
    log = tmp_path / "run" / "logs" / "shard-0.log"
    assert "raise_it" in log.read_text()  # its traceback stands there


# On Ray, without a cluster


@pytest.fixture
def ray_runtime() -> Any:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlvla3[ray]'")
    return importlib.import_module("rlvla3.runtimes.ray.runtime")


@pytest.mark.parametrize("error", [*EXPLAINED, OURS])
def test_a_ray_actor_says_whether_the_error_of_its_body_explains_itself(error: str, ray_runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)  # the actor takes it away, and the test gives it back
    monkeypatch.setattr("rlvla3.runtimes.ray.actor.name_process", lambda name: None)  # this process is not only this actor's

    async def hear() -> list[Any]:
        actor = importlib.import_module("rlvla3.runtimes.ray.actor").WorkerActor("failing", "tests.support.failing:fail_in_an_actor", error)
        said = list[Any]()
        async with asyncio.timeout(PATIENCE_S):
            while not any(isinstance(message, Stop) for message in said):
                said += (await actor.listen(given_up=""))[1]
        return said

    message, _ = asyncio.run(hear())
    assert (message.kind, message.message, message.explained) == (error.partition(":")[2], message_of(error), error != OURS)
    assert "raise_it" in message.traceback


@pytest.mark.parametrize("explained", [True, False])
def test_on_ray_a_trainers_message_is_passed_on_alone_where_it_explains_itself(explained: bool, ray_runtime: Any) -> None:
    heard = list[WorkerError]()
    runtime = SimpleNamespace(_trainers=[object()], fail=heard.append)
    ray_runtime.RayRuntime._on_trainer_failed(runtime, "trainer", failed(EXPLAINED[0], explained))
    (error,) = heard
    assert isinstance(error, WorkerError)
    if explained:
        assert str(error) == message_of(EXPLAINED[0])
    else:
        assert str(error).startswith("the trainer failed with LearnerError: ") and "Traceback" in str(error)


@pytest.mark.parametrize("explained", [True, False])
def test_on_ray_an_error_of_a_host_that_is_not_ready_is_passed_on_with_its_name(explained: bool, ray_runtime: Any) -> None:
    heard = list[WorkerError]()
    supervisor = SimpleNamespace(_started=False, _ending=False, _fail=heard.append)
    kind = importlib.import_module("rlvla3.runtimes.ray.cluster_supervisor").ClusterSupervisor
    kind._on_failed(supervisor, SimpleNamespace(name="host 1"), failed(EXPLAINED[1], explained))
    (error,) = heard
    assert str(error).startswith(f"host 1: {message_of(EXPLAINED[1])}") and ("Traceback" in str(error)) == (not explained)


def test_the_channel_of_a_worker_that_failed_ends_after_its_error() -> None:
    """So that whoever waits for the worker does not wait for ever."""
    here, there = multiprocessing.Pipe()

    async def hear() -> None:
        control = Control(here)
        control.listen()
        Control(there).send(failed(OURS, False))
        there.close()
        assert isinstance(await control.receive(), Failed)
        with pytest.raises(Stopped):
            await control.receive()

    asyncio.run(asyncio.wait_for(hear(), PATIENCE_S))
