"""`rlvla3 bench vector`: the vector environment does what the engine does, so that only who waits for whom is compared; and what an emulated inference is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rlvla3.benchmarks import vector
from rlvla3.benchmarks.emulated_inference import with_inference
from rlvla3.benchmarks.vector import chosen_recipe, default_recipe, median_ratio, vector_side
from rlvla3.cli import main
from rlvla3.config import Recipe, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.parts import training_capacity
from rlvla3.policies.base import Observations
from rlvla3.policies.registry import make_policy
from rlvla3.runtimes.local import LocalRuntime
from rlvla3.scheduling.ledger import Ledger, TicketBook
from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.common_spaces import common_spaces
from rlvla3.types import Finished

UPDATES = 3
Update = tuple[Mapping[str, float], list[Finished]]


def cartpole(**sections: Any) -> dict[str, Any]:
    """Episodes of 9 to 16 steps, some of which the pole ends and some the time limit."""
    recipe: dict[str, Any] = {
        "simulator": {"name": "gymnasium:CartPole-v1", "shards": 3, "max_steps": 16, "options": {"success_return": 16}},
        "policy": {"name": "actor_critic", "chunk": 3, "options": {"hidden": 8}},
        "training": {"batch": 8, "steps": 2, "epochs": 2, "micro_batch": 10, "warmup_steps": 0, "learning_rate": 0.01},
        "engine": {"mode": "sync", "record": False},
    }
    for section, settings in sections.items():
        recipe[section] = recipe.get(section, {}) | settings
    return recipe


async def by_engine(recipe: Recipe, scratch: Path) -> list[Update]:
    ledger = Ledger(TicketBook(recipe.mix, recipe.seed, recipe.algorithm.group_size), recipe.training.batch, recipe.engine.max_staleness)
    async with LocalRuntime(recipe, RunDirectory.create(scratch / "run", recipe), capacity=training_capacity(recipe), notify=print) as runtime:
        await runtime.guard(runtime.ready())
        return [(published.metrics, episodes) async for published, episodes in runtime.train(ledger, end=UPDATES)]


async def by_vector_environment(recipe: Recipe, updates: int = UPDATES) -> list[Update]:
    made: list[Update] = []
    with vector_side(recipe) as (side, _, _):
        async for update in side.updates():
            made.append(update)
            if len(made) == updates:
                break
    return made


# The same work


@pytest.mark.slow
def test_the_vector_environment_runs_the_same_episodes_and_learns_the_same_from_them_as_the_engine_in_sync_mode(tmp_path: Path):
    recipe = make_recipe(cartpole())
    engine = asyncio.run(by_engine(recipe, tmp_path))
    others = asyncio.run(by_vector_environment(recipe))
    for (metrics, episodes), (other_metrics, other_episodes) in zip(engine, others, strict=True):
        assert other_episodes == episodes  # tickets, steps, decisions, returns, successes and the versions that decided
        assert other_metrics == pytest.approx(metrics, rel=1e-3, abs=1e-6)
    lengths = {episode.steps for _, episodes in engine for episode in episodes}
    assert len(lengths) > 2, "episodes of one length would say little"
    assert {episode.success for _, episodes in engine for episode in episodes} == {True, False}, "both ends of an episode are to be compared"


def test_with_staleness_1_it_begins_episodes_of_the_next_update_and_trains_on_every_ticket_once():
    recipe = make_recipe(cartpole(engine={"mode": "full_async"}, training={"batch": 4}))
    made = asyncio.run(by_vector_environment(recipe, updates=6))
    assert [episode.ticket.index for _, episodes in made for episode in episodes] == list(range(24))
    staleness = {update - episode.oldest for update, (_, episodes) in enumerate(made) for episode in episodes}
    assert staleness == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["die", "hang"])
def test_an_environment_that_is_lost_ends_the_benchmark_with_its_reason(tmp_path: Path, trouble: str):
    simulator = {
        "name": "tests.support.troublesome:OnceTroubled",
        "shards": 2,
        "max_steps": 6,
        "timeout_s": 2,
        "options": {"kwargs": {"flag": str(tmp_path / "flag"), "trouble": trouble}},
    }
    with pytest.raises(SimulatorError, match="timeout_s=2"):
        asyncio.run(by_vector_environment(make_recipe(cartpole() | {"simulator": simulator}), updates=1))


# Emulated inference


def test_an_emulated_policy_decides_and_learns_as_its_own_does_and_waits_once_an_inference(monkeypatch: pytest.MonkeyPatch):
    recipe = make_recipe(cartpole())
    spaces = common_spaces(recipe)
    torch.manual_seed(0)
    policy = make_policy(recipe.policy, spaces)
    torch.manual_seed(0)
    waiting = make_policy(with_inference(recipe, 120.0).policy, spaces)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    shape = policy.options.noise_shape(spaces, recipe.policy.chunk)
    assert waiting.options.noise_shape(spaces, recipe.policy.chunk) == shape
    assert waiting.options.trace(spaces, recipe.policy.chunk) == policy.options.trace(spaces, recipe.policy.chunk)
    observations = Observations({}, torch.randn(5, spaces.state), torch.zeros(5), [""] * 5)
    noise, explore = torch.randn(5, *shape), torch.ones(5, dtype=torch.bool)
    decided, expected = (each.act(observations, noise, explore) for each in (waiting, policy))
    assert waits == [0.12]
    assert torch.equal(decided.actions, expected.actions) and torch.equal(decided.logprob, expected.logprob)
    assert torch.equal(waiting.evaluate(observations, decided.actions, decided.trace).logprob, decided.logprob)
    assert waits == [0.12], "learning does not wait"
    assert len(waiting.critic_parameters()) == len(policy.critic_parameters()) and len(waiting.actor_parameters()) == len(policy.actor_parameters())


def test_an_emulated_policy_starts_from_the_recipes_checkpoint(tmp_path: Path):
    recipe = make_recipe(cartpole())
    torch.manual_seed(1)
    make_policy(recipe.policy, common_spaces(recipe)).save(tmp_path / "policy", "actor_critic")
    resumed = make_recipe(cartpole(policy={"checkpoint": str(tmp_path / "policy")}))
    saved, loaded = make_policy(resumed.policy, common_spaces(resumed)), make_policy(with_inference(resumed, 5.0).policy, common_spaces(resumed))
    assert all(torch.equal(loaded.state_dict()[f"policy.{name}"], tensor) for name, tensor in saved.state_dict().items())


# The command


@pytest.mark.slow
def test_the_command_measures_both_sides_in_turn(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(cartpole(simulator={"shards": 2}, engine={"mode": "full_async"})))
    words = ["bench", "vector", str(tmp_path / "recipe.yaml"), "training.batch=4", "--json", str(tmp_path / "f.json")]
    assert main([*words, "--inference", "auto", "--pairs", "1", "--seconds", "0.1"]) == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    (pair,) = figures["pairs"]
    assert pair["ratio"] == figures["ratio"]["median"] == pair["engine"]["steps_per_second"] / pair["vector"]["steps_per_second"]
    assert figures["inference_ms"] > 0
    assert figures["recipe"]["policy"]["options"]["inference_ms"] == figures["inference_ms"]
    for side in ("engine", "vector"):
        assert pair[side]["seconds"] >= 0.1
        for worker in pair[side]["workers"]:
            assert sum(worker["busy"].values()) + sum(worker["idle"].values()) == pytest.approx(1)


def test_the_vector_side_has_as_many_threads_as_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []

    async def measured(recipe: Recipe, *_: Any) -> dict[str, float]:
        seen.append(recipe.training.threads)
        return {"steps_per_second": 1.0}

    monkeypatch.setattr(vector, "measure", measured)
    monkeypatch.setattr(vector, "measure_vector", measured)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(cartpole()))
    vector.main([str(tmp_path / "recipe.yaml")], tmp_path / "f.json", 0.0, pairs=2, seconds=1.0, threads=2)
    assert seen == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("changes", "way_out"),
    [
        ({"simulator": {"slots": 2}}, "simulator.slots=1"),
        ({"simulator": None, "simulators": {"a": {"name": "gymnasium:CartPole-v1"}}}, "under simulator:"),
    ],
)
def test_what_a_vector_environment_cannot_do_is_refused(tmp_path: Path, changes: dict[str, Any], way_out: str):
    recipe = {key: value for key, value in (cartpole() | changes).items() if value}
    if "simulators" not in changes:
        recipe = cartpole(**changes)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError, match=way_out):
        chosen_recipe([str(tmp_path / "recipe.yaml")])


def test_by_default_an_inference_is_for_half_of_the_environments_and_all_cores_have_one_of_the_other_half():
    recipe = default_recipe(["seed=3"])
    assert recipe.seed == 3
    assert recipe.engine.max_batch == recipe.simulator.shards // 2 and recipe.simulator.shards % 2 == 0
    assert recipe.training.batch % recipe.simulator.shards == 0


def test_the_ratio_is_the_median_of_the_pairs_between_the_least_and_the_greatest():
    assert median_ratio([1.4, 1.6, 1.5, 2.0]) == {"median": 1.55, "least": 1.4, "greatest": 2.0, "confidence": 0.875}
