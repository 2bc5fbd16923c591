"""What the engine relies on in every policy: act and evaluate agree, noise decides, weights travel and come back."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from rlvla3.config import PolicyConfig
from rlvla3.errors import RecipeError
from rlvla3.policies.base import Observations, PolicyError
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.registry import make_policy, policy_options, read_checkpoint_config
from rlvla3.types import ActionSpace, Spaces, decision_layout

torch.set_num_threads(1)
SMALL = {"width": 32, "layers": 2, "expert_width": 32, "instruction_bytes": 32}

ROBOT = Spaces({"front": (64, 64, 3)}, 4, ActionSpace("continuous", 4), 100)
VECTOR = Spaces({}, 5, ActionSpace("discrete", 1, choices=3), 200)
TORQUE = Spaces({}, 3, ActionSpace("continuous", 2, low=-2.0, high=2.0), 200)
PIXELS = Spaces({"screen": (84, 84, 3)}, 0, ActionSpace("discrete", 1, choices=4), 200)
EVERYTHING = Spaces({"front": (84, 84, 3), "wrist": (32, 48, 1)}, 6, ActionSpace("continuous", 3), 50)

POLICIES: dict[str, tuple[str, Spaces, int, dict[str, Any]]] = {
    "flow": ("mini_vla", ROBOT, 5, SMALL | {"head": "flow"}),
    "flow_noise": ("mini_vla", ROBOT, 5, SMALL | {"flow": {"method": "flow_noise"}}),
    "flow_noise_one": ("mini_vla", ROBOT, 3, SMALL | {"flow": {"method": "flow_noise", "steps": "one", "noise": 0.2}}),
    "flow_sde": ("mini_vla", ROBOT, 5, SMALL | {"flow": {"method": "flow_sde", "denoising_steps": 3}}),
    "flow_sde_one": ("mini_vla", ROBOT, 1, SMALL | {"flow": {"method": "flow_sde", "steps": "one"}}),
    "tokens": ("mini_vla", ROBOT, 5, SMALL | {"head": "tokens"}),
    "vector": ("actor_critic", VECTOR, 1, {}),
    "vector_chunks": ("actor_critic", VECTOR, 4, {}),
    "torque": ("actor_critic", TORQUE, 2, {}),
    "pixels": ("actor_critic", PIXELS, 1, {}),
    "everything": ("actor_critic", EVERYTHING, 2, {"image_features": 32}),
}
every_policy = pytest.mark.parametrize("name", POLICIES)
every_mini_vla = pytest.mark.parametrize("head", ["flow", "tokens"])


def config_of(name, **changes):
    kind, _, chunk, options = POLICIES[name]
    given: dict[str, Any] = {"name": kind, "chunk": chunk, "options": options} | changes
    return PolicyConfig(**given)


def make(name, seed=0):
    torch.manual_seed(seed)
    policy = make_policy(config_of(name), POLICIES[name][1])
    with torch.no_grad():  # what begins at zero would hide mistakes
        for parameter in policy.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return policy


def observe(spaces, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = {camera: torch.randint(0, 256, (rows, *shape), dtype=torch.uint8, generator=generator) for camera, shape in spaces.cameras.items()}
    instructions = [("press the button", "open the drawer")[row % 2] for row in range(rows)]
    return Observations(images, torch.randn(rows, spaces.state, generator=generator), torch.rand(rows, generator=generator), instructions)


def rows_of(observations, rows):
    images = {camera: image[rows] for camera, image in observations.images.items()}
    return Observations(images, observations.state[rows], observations.elapsed[rows], [observations.instructions[row] for row in rows])


def noise_of(policy, rows, seed=0):
    shape = policy.options.noise_shape(policy.spaces, policy.chunk)
    return torch.from_numpy(decision_noise(seed, [(1, ticket, 0) for ticket in range(rows)], shape))


def act(policy, rows=4):
    observations = observe(policy.spaces, rows)
    return observations, policy.act(observations, noise_of(policy, rows), torch.arange(rows) % 2 == 0)


@every_policy
def test_evaluate_agrees_with_act_on_unchanged_weights(name):
    policy = make(name)
    observations, decisions = act(policy)
    evaluation = policy.evaluate(observations, decisions.actions, decisions.trace)
    torch.testing.assert_close(evaluation.logprob, decisions.logprob, rtol=0, atol=1e-5)
    torch.testing.assert_close(evaluation.value, decisions.value, rtol=0, atol=1e-5)


@every_policy
def test_they_agree_to_the_last_digits_in_double_precision(name):
    torch.set_default_dtype(torch.float64)
    try:
        policy = make(name)
        observations, decisions = act(policy)
        evaluation = policy.evaluate(observations, decisions.actions, decisions.trace)
    finally:
        torch.set_default_dtype(torch.float32)
    assert decisions.logprob.dtype == torch.float64
    torch.testing.assert_close(evaluation.logprob, decisions.logprob, rtol=0, atol=1e-10)
    torch.testing.assert_close(evaluation.value, decisions.value, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["tokens", "vector", "torque", "everything"])
def test_noise_changes_a_decision_only_where_it_explores(name):
    policy = make(name)
    observations, explore = observe(policy.spaces, 16), torch.arange(16) % 2 == 0
    first, second = (policy.act(observations, noise_of(policy, 16, seed), explore).actions for seed in (0, 1))
    differs = (first != second).flatten(1).any(1)
    assert not differs[~explore].any() and differs[explore].any()


@every_policy
def test_a_decision_does_not_depend_on_the_rest_of_its_batch(name):
    policy = make(name)
    observations, together = act(policy)
    noise, explore = noise_of(policy, 4), torch.arange(4) % 2 == 0
    for rows in ([3], [2, 0]):
        apart = policy.act(rows_of(observations, rows), noise[rows], explore[rows])
        for part in ("actions", "logprob", "value"):
            torch.testing.assert_close(getattr(apart, part), getattr(together, part)[rows], rtol=0, atol=1e-5)


@every_policy
def test_decisions_are_laid_out_as_the_options_say(name):
    policy = make(name)
    _, decisions = act(policy)
    layout = decision_layout(policy.spaces.action.size, policy.chunk, policy.options.trace(policy.spaces, policy.chunk))
    given = {"actions": decisions.actions, "logprob": decisions.logprob, "value": decisions.value}
    given |= {f"trace.{name}": tensor for name, tensor in decisions.trace.items()}
    assert {key: (tuple(tensor.shape[1:]), tensor.numpy().dtype) for key, tensor in given.items()} == {
        key: (field.shape, np.dtype(field.dtype)) for key, field in layout.items() if key != "version"
    }


@every_policy
def test_actions_are_what_the_simulator_accepts(name):
    policy = make(name)
    _, decisions = act(policy, rows=16)
    space = policy.spaces.action
    if space.kind == "discrete":
        assert set(decisions.actions.unique().tolist()) <= set(range(space.choices))
    else:
        assert decisions.actions.min() >= space.low and decisions.actions.max() <= space.high


@every_policy
def test_a_saved_policy_comes_back_whole(name, tmp_path):
    policy = make(name)
    policy.fit_normalisation(torch.randn(10, policy.spaces.state) + 1, torch.zeros(10, policy.chunk, policy.spaces.action.size))
    observations, decisions = act(policy)
    policy.save(tmp_path / "policy", POLICIES[name][0])
    saved = read_checkpoint_config(tmp_path / "policy")
    assert saved[:3] == (POLICIES[name][0], policy.chunk, policy.spaces)
    again = make_policy(saved.config(tmp_path / "policy"), saved.spaces)
    evaluation = again.evaluate(observations, decisions.actions, decisions.trace)
    torch.testing.assert_close(evaluation.logprob, decisions.logprob, rtol=0, atol=1e-5)


@every_policy
def test_published_weights_make_another_policy_the_same(name):
    policy, other = make(name), make(name, seed=1)
    policy.fit_normalisation(torch.randn(10, policy.spaces.state) + 1, torch.zeros(10, policy.chunk, policy.spaces.action.size))
    observations, decisions = act(policy)
    other.load_state_dict(policy.published(), strict=False)
    assert (other.evaluate(observations, decisions.actions, decisions.trace).logprob - decisions.logprob).abs().max() <= 1e-5


@every_policy
def test_value_of_trains_the_critic_alone(name):
    policy = make(name)
    observations, decisions = act(policy)
    evaluation = policy.evaluate(observations, decisions.actions, decisions.trace)
    value = policy.value_of(evaluation.features)
    torch.testing.assert_close(value, evaluation.value, rtol=0, atol=1e-6)
    value.sum().backward()
    assert all(parameter.grad is None for parameter in policy.actor_parameters())
    assert all(parameter.grad is not None for parameter in policy.critic_parameters())


@every_mini_vla
def test_the_value_of_a_mini_vla_never_reaches_the_actor(head):
    policy = make(head)
    observations, decisions = act(policy)
    policy.evaluate(observations, decisions.actions, decisions.trace).value.sum().backward()
    assert all(parameter.grad is None for parameter in policy.actor_parameters())


@every_mini_vla
def test_a_mini_vla_looks_listens_and_feels(head):
    policy = make(head)
    observations, decisions = act(policy)
    evaluated = policy.evaluate(observations, decisions.actions, decisions.trace).logprob
    others = [
        Observations({"front": 255 - observations.images["front"]}, observations.state, observations.elapsed, observations.instructions),
        Observations(observations.images, observations.state + 1, observations.elapsed, observations.instructions),
        Observations(observations.images, observations.state, observations.elapsed, ["close the window"] * 4),
    ]
    for other in others:
        changed = policy.evaluate(other, decisions.actions, decisions.trace).logprob
        assert ((changed - evaluated).abs().amax((1, 2)) > 1e-4).all()


@every_mini_vla
def test_cloning_learns_what_depends_on_image_state_and_instruction(head):
    policy = make_policy(PolicyConfig(chunk=2, options=SMALL | {"head": head}), ROBOT)
    observations = observe(ROBOT, 12)
    actions = torch.rand(12, 2, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    policy.fit_normalisation(observations.state, actions)
    optimizer, generator, losses = torch.optim.AdamW(policy.actor_parameters(), 3e-3), torch.Generator().manual_seed(2), []
    for _ in range(40):
        loss = policy.clone_loss(observations, actions, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_the_clone_loss_repeats_with_its_generator():
    policy, observations, actions = make("flow"), observe(ROBOT, 3), torch.zeros(3, 5, 4)
    first, second, other = (policy.clone_loss(observations, actions, torch.Generator().manual_seed(seed)).item() for seed in (1, 1, 2))
    assert first == second != other


@pytest.mark.parametrize(("side", "tokens"), [(64, 16), (96, 36), (112, 49), (128, 16), (144, 25), (224, 49)])
def test_images_of_every_size_become_a_sensible_number_of_tokens(side, tokens):
    spaces = Spaces({"front": (side, side, 3), "wrist": (64, 80, 3)}, 0, ActionSpace("continuous", 2), 100)
    policy = make_policy(PolicyConfig(options=SMALL), spaces)
    observations = observe(spaces, 2)
    decisions = policy.act(observations, noise_of(policy, 2), torch.ones(2, dtype=torch.bool))
    evaluation = policy.evaluate(observations, decisions.actions, decisions.trace)
    assert evaluation.features["tokens"].shape[1] == tokens + 4 * 5 + 4
    assert (evaluation.logprob - decisions.logprob).abs().max() <= 1e-5


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    make("vector").save(tmp_path, "actor_critic")
    with pytest.raises(PolicyError, match=r"weights of another policy.*policy\.options"):
        make_policy(config_of("vector", checkpoint=tmp_path, options={"hidden": 32}), VECTOR)


def test_a_folder_without_a_policy_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"config\.json and model\.safetensors"):
        read_checkpoint_config(tmp_path)
    (tmp_path / "config.json").write_text('{"policy": "mini_vla"}')
    with pytest.raises(RecipeError, match="It must describe an rlvla3 policy"):
        read_checkpoint_config(tmp_path)


@pytest.mark.parametrize(
    ("config", "spaces", "message"),
    [
        ({"name": "minivla"}, ROBOT, "mini_vla, actor_critic"),
        ({"name": "no.such.module:Thing"}, ROBOT, "cannot be loaded"),
        ({"name": "rlvla3.policies.mini_vla:Prefix"}, ROBOT, "not a policy"),
        ({"options": {"heads": "flow"}}, ROBOT, "did you mean head"),
        ({"options": {"flow": {"level": 1}}}, ROBOT, "policy.options.flow.level: unknown key"),
        ({"options": {"instruction_bytes": 30}}, ROBOT, "multiple of 8"),
        ({}, VECTOR, "policy.name=actor_critic"),
        ({}, Spaces({"front": (100, 64, 3)}, 4, ActionSpace("continuous", 4), 100), "100 x 64.*image size to 96"),
        ({}, Spaces({"front": (480, 640, 3)}, 4, ActionSpace("continuous", 4), 100), "image size to 224"),
        ({}, Spaces({"front": (64, 64, 3)}, 0, ActionSpace("discrete", 1, choices=3), 100), "discrete"),
        ({"name": "actor_critic"}, Spaces({}, 3, ActionSpace("continuous", 1, low=-np.inf, high=np.inf), 100), "RescaleAction"),
        ({"name": "actor_critic"}, Spaces({}, 0, ActionSpace("continuous", 1), 100), "neither a state nor an image"),
        ({"name": "actor_critic"}, Spaces({"front": (16, 64, 3)}, 0, ActionSpace("continuous", 1), 100), "16 x 64"),
    ],
)
def test_what_cannot_be_built_is_refused(config, spaces, message):
    with pytest.raises(RecipeError, match=message):
        policy_options(PolicyConfig(**config), spaces)


def test_a_policy_of_one_s_own_is_named_by_module_and_class():
    policy = make_policy(PolicyConfig(name="rlvla3.policies.actor_critic:ActorCritic", chunk=1), VECTOR)
    assert type(policy).__name__ == "ActorCritic"


def test_settings_are_checked_without_torch():
    program = (
        "import sys; from rlvla3.config import PolicyConfig; from rlvla3.policies.registry import policy_options; from rlvla3.types import *;"
        "policy_options(PolicyConfig(), Spaces({'front': (64, 64, 3)}, 4, ActionSpace('continuous', 4), 100)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
