"""A policy that acts outside of a run: what an evaluation decides, bit for bit, and what it refuses to see."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator, Philox

import rlvla3
from rlvla3.config import PolicyConfig
from rlvla3.errors import RecipeError
from rlvla3.observability.run_directory import RunDirectory, RunDirectoryError
from rlvla3.policies.registry import make_policy
from rlvla3.preflight import preflight
from rlvla3.types import ActionSpace, Spaces
from tests.support.lerobot_checkpoints import whole_folder

POLICIES: dict[str, dict[str, Any]] = {
    "actor_critic": {"name": "actor_critic", "chunk": 3},
    "flow": {"name": "mini_vla", "chunk": 3, "options": {"width": 32, "layers": 1, "expert_width": 32, "instruction_bytes": 24}},
    "tokens": {"name": "mini_vla", "chunk": 3, "options": {"head": "tokens", "width": 32, "layers": 1, "expert_width": 32, "instruction_bytes": 24}},
}


def a_recipe(folder: Path, policy: str) -> rlvla3.Recipe:
    """Whose decisions are made one by one: the last bits of a matrix product depend on how many rows it has."""
    simulator = {"name": "tests.support.keeps:Keeps", "shards": 1, "tasks": ["near", "far"], "options": {"folder": str(folder)}}
    return rlvla3.load_recipe({"simulator": simulator, "policy": POLICIES[policy], "engine": {"max_batch": 1}, "evaluation": {"episodes": 3}, "seed": 5})


@pytest.fixture(params=POLICIES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def policy_folder(kind: str, tmp_path: Path) -> Path:
    """A policy of random weights."""
    recipe = a_recipe(tmp_path, kind)
    torch.manual_seed(0)
    policy = make_policy(recipe.policy, preflight(recipe))
    with torch.no_grad():
        for parameter in policy.parameters():  # not the initial ones: those of last layers are often 0
            parameter.add_(0.1 * torch.randn_like(parameter))
    policy.save(tmp_path / "policy", recipe.policy.name)
    return tmp_path / "policy"


@pytest.fixture
def actor(tmp_path: Path) -> rlvla3.LoadedPolicy:
    recipe = a_recipe(tmp_path, "actor_critic")
    make_policy(recipe.policy, preflight(recipe)).save(tmp_path / "policy", recipe.policy.name)
    return rlvla3.load_policy(tmp_path / "policy")


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def observation(random: Generator, **changes: Any) -> rlvla3.Observation:
    seen: dict[str, Any] = {"images": {"front": random.integers(0, 256, (64, 64, 3), np.uint8)}, "state": random.standard_normal(2).astype(np.float32)}
    return rlvla3.Observation(**seen | {"instruction": "go to the goal nearby"} | changes)


@pytest.mark.slow
def test_it_decides_what_an_evaluation_decides_bit_for_bit(kind: str, policy_folder: Path, tmp_path: Path, one_thread: None, nothing_left: None) -> None:
    (kept := tmp_path / "kept").mkdir()
    recipe = a_recipe(kept, kind)
    rlvla3.evaluate(recipe, {"policy.checkpoint": policy_folder}, run_dir=tmp_path / "evaluation", progress=False)
    policy = rlvla3.load_policy(policy_folder)
    decisions = [np.load(file) for file in sorted(kept.glob("*.npz"))]
    assert len(decisions) >= 6
    for decision in decisions:
        purpose, ticket, row, instruction = json.loads(str(decision["about"]))
        assert purpose == "evaluate"
        seen = rlvla3.Observation({"front": decision["image"]}, decision["state"], instruction, float(decision["elapsed"]))
        # The noise of decisions without exploration, from policies/noise.py: that of a flow policy decides where its chunk starts.
        noise = Generator(Philox(key=np.array([recipe.seed, ticket], np.uint64), counter=np.array([0, row, 0, 0], np.uint64)))
        acted = policy.act(seen, seed=noise)
        assert acted.dtype == decision["chunk"].dtype == np.float32
        assert acted.tobytes() == decision["chunk"].tobytes()


def test_it_is_deterministic_unless_it_explores(policy_folder: Path) -> None:
    policy, random = rlvla3.load_policy(policy_folder), np.random.default_rng(0)
    seen = [observation(random) for _ in range(3)]
    alone, together = policy.act(seen[1]), policy.act(seen)
    assert alone.shape == (3, 1)
    assert together.shape == (3, 3, 1)
    assert policy.act(seen[:0]).shape == (0, 3, 1)
    np.testing.assert_array_equal(policy.act(seen), together)
    np.testing.assert_allclose(together[1], alone, atol=1e-5)
    assert (together[0] != together[1]).any()
    explored = policy.act(seen, explore=True, seed=1)
    np.testing.assert_array_equal(policy.act(seen, explore=True, seed=1), explored)
    assert (explored != together).any()
    assert (policy.act(seen, explore=True, seed=2) != explored).any()
    stream = np.random.default_rng(1)
    np.testing.assert_array_equal(policy.act(seen, explore=True, seed=stream), explored)
    assert (policy.act(seen, explore=True, seed=stream) != explored).any()


def test_actions_lie_within_the_simulators_bounds(policy_folder: Path) -> None:
    policy, random = rlvla3.load_policy(policy_folder), np.random.default_rng(0)
    actions = policy.act([observation(random) for _ in range(50)], explore=True, seed=0)
    assert policy.spaces.action.low <= actions.min() < actions.max() <= policy.spaces.action.high


RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"images": {"wrist": RANDOM.integers(0, 256, (64, 64, 3), np.uint8)}}, r"images: given cameras \['wrist'\], the policy sees \['front'\]"),
        ({"images": {}}, r"images: given cameras \[\]"),
        ({"images": {"front": np.zeros((64, 64, 3), np.float32)}}, r"images\['front'\]: given float32 \[64, 64, 3\], the policy sees uint8 \[64, 64, 3\]"),
        ({"images": {"front": np.zeros((3, 64, 64), np.uint8)}}, r"images\['front'\]: given uint8 \[3, 64, 64\]"),
        ({"images": {"front": [[0]]}}, r"images\['front'\]: given a list"),
        ({"state": np.zeros(3, np.float32)}, r"state: given float32 \[3\], the policy sees float32 \[2\]"),
        ({"state": np.zeros((1, 2), np.float32)}, r"state: given float32 \[1, 2\]"),
        ({"state": np.array(["a", "b"])}, "state: given <U1"),
        ({"state": np.array([np.nan, 0])}, "state: 1 of 2 numbers are nan or infinite"),
        ({"instruction": None}, "instruction is None, of type NoneType: give a str"),
        ({"instruction": "x" * 257}, "instruction has 257 bytes, but at most 256"),
        ({"elapsed": 3}, "elapsed: given 3, expected the share of the episode's steps"),
    ],
)
def test_an_observation_of_another_kind_is_refused(actor: rlvla3.LoadedPolicy, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refused:
        actor.act(observation(RANDOM, **changes))
    assert isinstance(refused.value, rlvla3.ExplainedError)
    with pytest.raises(ValueError, match=r"^observation 1 of 2 is not of the kind"):
        actor.act([observation(RANDOM), observation(RANDOM, **changes)])


def test_all_that_is_wrong_is_said_at_once(actor: rlvla3.LoadedPolicy) -> None:
    with pytest.raises(ValueError, match=r"(?s)images: .*state: .*elapsed: "):
        actor.act(observation(RANDOM, images={}, state=np.zeros(1), elapsed=-1))
    with pytest.raises(ValueError, match=r"it is a str: give rlvla3\.Observation\(images="):
        actor.act(["left"])  # type: ignore[list-item]


def test_a_state_of_another_number_type_is_taken(actor: rlvla3.LoadedPolicy) -> None:
    seen = observation(RANDOM, state=np.array([0.5, -1.0], np.float32))
    for state in (np.array([0.5, -1.0]), [0.5, -1.0]):
        np.testing.assert_array_equal(actor.act(observation(RANDOM, images=seen.images, state=state)), actor.act(seen))


def test_it_is_found_in_a_run_a_checkpoint_and_a_folder_of_its_own(actor: rlvla3.LoadedPolicy, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", a_recipe(tmp_path, "actor_critic"))
    with pytest.raises(RunDirectoryError, match="holds no checkpoint yet, and so no policy"):
        rlvla3.load_policy(run.path)
    for version in (1, 2):
        with run.checkpoint(version, keep=2) as folder:
            if version == 1:
                (folder / "policy").mkdir()
            else:
                actor.path.rename(folder / "policy")
    policy_folder = run.checkpoints / "000002" / "policy"
    (copied := tmp_path / "copied").mkdir()
    (copied / "policy").symlink_to(policy_folder.absolute())
    weights = [rlvla3.load_policy(place)._policy.state_dict() for place in (run.path, rlvla3.Run(run.path), policy_folder.parent, policy_folder, copied)]
    for other in weights[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in weights[0].items())


def test_a_device_that_is_not_there_is_refused(actor: rlvla3.LoadedPolicy) -> None:
    with pytest.raises(RecipeError, match="device=cuda:99, and this machine has"):
        rlvla3.load_policy(actor.path, "cuda:99")


@pytest.mark.parametrize("family", ["pi0", "smolvla"])
def test_a_pretrained_policy_acts_outside_of_its_run_and_without_the_folder_that_it_came_from(family: str, tmp_path: Path, one_thread: None):
    came = whole_folder(tmp_path / "came", family)
    spaces = Spaces({"agentview": (64, 64, 3), "robot0_eye_in_hand": (64, 64, 3)}, 8, ActionSpace("continuous", 7, low=-9, high=9), 100, ("open it",))
    policy = make_policy(PolicyConfig(name=family, chunk=3, checkpoint=came), spaces).eval()
    policy.save(tmp_path / "policy", family)
    shutil.rmtree(came)
    loaded, random = rlvla3.load_policy(tmp_path / "policy"), np.random.default_rng(0)
    images = {camera: random.integers(0, 256, (64, 64, 3), np.uint8) for camera in spaces.cameras}
    seen = rlvla3.Observation(images, random.standard_normal(8).astype(np.float32), "open it")
    actions = loaded.act(seen)
    assert loaded.name == family and actions.shape == (3, 7) and np.isfinite(actions).all() and actions.std() > 0
    assert np.array_equal(actions, loaded.act(seen)) and not np.array_equal(actions, loaded.act(seen, explore=True))
    assert np.abs(loaded.act([seen, seen]) - actions).max() < 1e-5
    with pytest.raises(rlvla3.ExplainedError, match="the policy sees \\['agentview', 'robot0_eye_in_hand'\\]"):
        loaded.act(replace(seen, images={"agentview": images["agentview"]}))
