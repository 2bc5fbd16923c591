"""What holds for every pretrained family at its tiny size: act and evaluate agree, parts are trained or frozen, adapters, save and load."""

import pytest
import torch

from rlvla3.config import PolicyConfig
from rlvla3.errors import RecipeError
from rlvla3.policies.registry import build_policy, make_policy, policy_options, read_checkpoint_config
from rlvla3.policies.vla.adapters import merged_tensors
from rlvla3.types import ActionSpace, Spaces
from tests.support.lerobot_checkpoints import whole_folder
from tests.support.vla import FAMILIES, FLOW_FAMILIES, ROBOT, config_of, make, noise_of, observe, rows_of

torch.set_num_threads(1)
every_family = pytest.mark.parametrize("family", FAMILIES)
every_flow_family = pytest.mark.parametrize("family", FLOW_FAMILIES)
METHODS = {
    "sde": {"method": "flow_sde", "steps": "all"},
    "sde_one": {"method": "flow_sde", "steps": "one"},
    "noise": {"method": "flow_noise", "steps": "all"},
    "noise_one": {"method": "flow_noise", "steps": "one"},
    "last_step": {"method": "last_step"},
}


def act(policy, rows=3):
    observations = observe(policy.spaces, rows)
    return observations, policy.act(observations, noise_of(policy, rows), torch.arange(rows) % 2 == 0)


def evaluate(policy, observations, decisions):
    return policy.evaluate(observations, decisions.actions, decisions.trace)


@every_family
def test_evaluate_agrees_with_act_to_the_last_bit(family):
    policy = make(family)
    observations, decisions = act(policy)
    with torch.no_grad():
        evaluation = evaluate(policy, observations, decisions)
    assert decisions.actions.shape == decisions.logprob.shape == (3, 4, 7)
    assert torch.equal(evaluation.logprob, decisions.logprob) and torch.equal(evaluation.value, decisions.value)
    assert torch.equal(evaluate(policy, observations, decisions).logprob.detach(), decisions.logprob)  # with gradient as well


@every_flow_family
@pytest.mark.parametrize("flow", METHODS.values(), ids=METHODS.keys())
@pytest.mark.parametrize("features", ["prefix", "suffix"])
def test_so_it_does_with_every_method_and_either_value_function(family, flow, features):
    policy = make(family, flow=flow, value={"features": features})
    observations, decisions = act(policy)
    evaluation = evaluate(policy, observations, decisions)
    assert torch.equal(evaluation.logprob, decisions.logprob) and torch.equal(evaluation.value, decisions.value)
    layout = policy.options.trace(policy.spaces, policy.chunk)
    assert {name: tuple(tensor.shape[1:]) for name, tensor in decisions.trace.items()} == {name: field.shape for name, field in layout.items()}


@every_family
def test_a_decision_does_not_depend_on_the_rest_of_its_batch(family):
    policy = make(family)
    observations, together = act(policy)
    noise, explore = noise_of(policy, 3), torch.arange(3) % 2 == 0
    for rows in ([2], [1, 0]):
        apart = policy.act(rows_of(observations, rows), noise[rows], explore[rows])
        torch.testing.assert_close(apart.logprob, together.logprob[rows], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(apart.actions, together.actions[rows], rtol=0, atol=1e-5)


@every_family
@pytest.mark.parametrize("train", [["expert"], ["language"], ["vision", "language", "expert"]], ids="-".join)
def test_gradients_reach_the_trained_parts_and_nothing_else(family, train):
    policy = make(family, train=train)
    observations, decisions = act(policy)
    evaluate(policy, observations, decisions).logprob.sum().backward()
    trained = {parameter for name in train for module in policy.network.part(name) for parameter in module.parameters()}
    trained -= set(policy.network.unreached())
    for name, parameter in policy.network.named_parameters():
        assert parameter.requires_grad == (parameter in trained), name
        assert parameter in trained or parameter.grad is None, name
    missing = [name for name, parameter in policy.network.named_parameters() if parameter in trained and parameter.grad is None]
    assert not missing
    assert all(parameter.grad is None for parameter in policy.critic_parameters())
    assert set(policy.published()) >= {f"network.{name}" for name, parameter in policy.network.named_parameters() if parameter in trained}
    assert not any(f"network.{name}" in policy.published() for name, parameter in policy.network.named_parameters() if parameter not in trained)


@every_family
def test_new_adapters_change_nothing_and_merged_ones_change_nothing_more(family):
    plain, adapted = make(family), make(family, train=["expert"], lora={"rank": 2, "parts": ["language", "expert"]})
    names = [name for name, _ in adapted.network.named_parameters() if ".lora_B" in name]
    unreached = set(adapted.network.unreached())
    assert names and all(parameter.requires_grad == (".lora_" in name and parameter not in unreached) for name, parameter in adapted.network.named_parameters())
    state = {name: torch.zeros_like(tensor) if ".lora_B" in name else tensor for name, tensor in adapted.network.state_dict().items()}
    adapted.network.load_state_dict(state)
    plain.network.load_state_dict(merged_tensors(state, adapted.options.lora))
    plain.critic.load_state_dict(adapted.critic.state_dict())
    plain.head.load_state_dict(adapted.head.state_dict())
    observations = observe(ROBOT, 2)
    explore, noise = torch.ones(2, dtype=torch.bool), noise_of(plain, 2)
    torch.testing.assert_close(adapted.act(observations, noise, explore).actions, plain.act(observations, noise, explore).actions, rtol=0, atol=1e-5)
    with torch.no_grad():
        for name, parameter in adapted.network.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.05)
    moved = adapted.act(observations, noise, explore).actions
    plain.network.load_state_dict(merged_tensors(adapted.network.state_dict(), adapted.options.lora))
    torch.testing.assert_close(plain.act(observations, noise, explore).actions, moved, rtol=0, atol=1e-4)


@every_family
@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["whole", "lora"])
def test_a_saved_policy_is_the_same_when_it_is_loaded(family, lora, tmp_path):
    policy = make(family, lora=lora)
    policy.save(tmp_path / "policy", family)
    saved = read_checkpoint_config(tmp_path / "policy")
    again = make_policy(saved.config(tmp_path / "policy"), saved.spaces).eval()
    assert again.options == policy.options
    spaces = Spaces(ROBOT.cameras, ROBOT.state, ROBOT.action, ROBOT.max_steps)
    assert saved.spaces == spaces
    observations = observe(ROBOT, 2)
    explore, noise = torch.ones(2, dtype=torch.bool), noise_of(policy, 2)
    first, second = (one.act(observations, noise, explore) for one in (policy, again))
    assert torch.equal(first.actions, second.actions) and torch.equal(first.logprob, second.logprob)


@every_family
def test_passes_in_bf16_give_log_probs_in_fp32_on_which_act_and_evaluate_agree(family):
    policy = make(family, precision="bf16")
    observations, decisions = act(policy)
    evaluation = evaluate(policy, observations, decisions)
    assert evaluation.logprob.dtype == evaluation.value.dtype == decisions.actions.dtype == torch.float32
    assert torch.equal(evaluation.logprob, decisions.logprob)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    assert all(parameter.dtype == torch.float32 for parameter in trained)


@every_family
def test_cloning_lowers_the_loss_of_executed_dimensions(family):
    policy = make(family, train=["vision", "language", "expert"])
    observations = observe(ROBOT, 8)
    actions = torch.rand(8, policy.options.horizon, 7, generator=torch.Generator().manual_seed(1)) * 2 - 1
    policy.fit_normalisation(observations.state, actions)
    optimizer = torch.optim.AdamW(policy.actor_parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = policy.clone_loss(observations, actions, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@every_family
def test_a_robot_with_fewer_dimensions_executes_the_first_ones(family):
    spaces = Spaces({"corner": (64, 64, 3)}, 4, ActionSpace("continuous", 4), 100, ("reach",))
    policy = make(family, spaces)
    observations, decisions = act(policy)
    assert decisions.actions.shape == decisions.logprob.shape == (3, 4, 4)
    assert torch.equal(evaluate(policy, observations, decisions).logprob, decisions.logprob)


@every_family
def test_what_does_not_fit_is_refused(family):
    with pytest.raises(RecipeError, match=r"policy.chunk=99 is more than the \d+ actions"):
        policy_options(PolicyConfig(name=family, chunk=99), ROBOT)
    discrete = Spaces(ROBOT.cameras, 8, ActionSpace("discrete", 1, choices=3), 100)
    with pytest.raises(RecipeError):
        build_policy(config_of(family), discrete)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_of_which_nothing_is_trained_is_not_reinforced(family):
    with pytest.raises(RecipeError, match=r"train=\[\] leaves nothing to train"):
        policy_options(config_of(family, train=[]), ROBOT).check_training()
    policy_options(config_of(family, train=[], lora={"rank": 2}), ROBOT).check_training()


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match=r"preset=liberoo is not known: set it to one of libero, metaworld"):
        policy_options(config_of("pi0", preset="liberoo"), ROBOT)


def test_casts_are_stated_where_weights_are_loaded(tmp_path, caplog):
    folder = whole_folder(tmp_path / "pi0", "pi0")
    spaces = Spaces({"agentview": (64, 64, 3), "robot0_eye_in_hand": (64, 64, 3)}, 8, ActionSpace("continuous", 7), 100, ("reach",))
    make_policy(PolicyConfig(name="pi0", chunk=4, checkpoint=folder, options={"precision": "bf16"}), spaces)
    assert "are cast from float32 to bfloat16" in caplog.text
