"""From a policy's name in a recipe to its checked settings, and to the policy itself.

Settings are checked without torch. It is imported only when a policy is built. A user's own policy is named `module:Class`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from rlvla3.config import PolicyConfig, check_options
from rlvla3.errors import RecipeError
from rlvla3.named import load_named
from rlvla3.policies.options import PolicyOptions
from rlvla3.policies.saved_policy import SavedPolicy, read_checkpoint_config
from rlvla3.types import Spaces

if TYPE_CHECKING:
    from rlvla3.policies.base import Policy

__all__ = ["POLICIES", "SavedPolicy", "build_policy", "make_policy", "options_class", "policy_class", "policy_options", "read_checkpoint_config"]

POLICIES: dict[str, tuple[str, str]] = {
    "mini_vla": ("rlvla3.policies.options:MiniVLAOptions", "rlvla3.policies.mini_vla:MiniVLA"),
    "actor_critic": ("rlvla3.policies.options:ActorCriticOptions", "rlvla3.policies.actor_critic:ActorCritic"),
    "pi0": ("rlvla3.policies.pi.families:Pi0Options", "rlvla3.policies.pi.policy:Pi0"),
    "pi05": ("rlvla3.policies.pi.families:Pi05Options", "rlvla3.policies.pi.policy:Pi05"),
    "smolvla": ("rlvla3.policies.pi.families:SmolVLAOptions", "rlvla3.policies.pi.policy:SmolVLAPolicy"),
    "openvla_oft": ("rlvla3.policies.openvla_oft.family:OpenVLAOFTOptions", "rlvla3.policies.openvla_oft.policy:OpenVLAOFTPolicy"),
    "groot": ("rlvla3.policies.groot.family:GR00TOptions", "rlvla3.policies.groot.policy:GR00TPolicy"),
}
"""The policies of this package: name -> (the schema of `policy.options`, the class)."""


def policy_options(config: PolicyConfig, spaces: Spaces) -> PolicyOptions:
    """The settings of the policy that `config` names, checked for `spaces`. A pretrained policy's come from its checkpoint, and the recipe's win.

    Raises RecipeError.
    """
    schema = options_class(config.name)
    options = check_options(schema, schema.starting(config, spaces), "policy.options")
    options.check(spaces, config.chunk)
    return options


def build_policy(config: PolicyConfig, spaces: Spaces) -> Policy:
    """Build the policy that `config` names for `spaces`. It has no weights yet. Raises RecipeError for settings that cannot be used."""
    options = policy_options(config, spaces)
    policy = policy_class(config.name)(spaces, config.chunk, options)
    if not hasattr(policy, "options"):
        raise RecipeError(f"policy {config.name} has not set up its base class: begin its __init__ with super().__init__(spaces, chunk, options)")
    return policy


def make_policy(config: PolicyConfig, spaces: Spaces) -> Policy:
    """Build the policy that `config` names for `spaces`, and load the weights of its checkpoint, or draw random ones if there is none.

    Raises RecipeError for settings, and PolicyError or RecipeError for a checkpoint, that cannot be used.
    """
    if config.starts_from is not None and config.name in POLICIES:  # a policy of your own need not be built without memory
        import torch

        # Before there is memory for the weights: a damaged folder may describe a policy of any size.
        with torch.device("meta"):
            build_policy(config, spaces).check_weights(config.starts_from)
    policy = build_policy(config, spaces)
    if config.starts_from is None:
        policy.initialise()
    else:
        policy.restore(config.starts_from)
    return policy


def options_class(name: str) -> type[PolicyOptions]:
    """The schema of the options of the policy `name`. Raises RecipeError where there is no such policy."""
    if name not in POLICIES:
        return policy_class(name).Options
    module, _, schema = POLICIES[name][0].partition(":")
    found: type[PolicyOptions] = getattr(import_module(module), schema)
    return found


def policy_class(name: str) -> type[Policy]:
    """The class of the policy `name`. Raises RecipeError where there is no such policy."""
    path = POLICIES[name][1] if name in POLICIES else name
    if ":" not in path:
        raise RecipeError(f"policy.name={name} is not known: use {', '.join(POLICIES)}, or module:Class for a policy of your own")
    found = load_named(path, "policy.name")
    from rlvla3.policies.base import Policy

    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise RecipeError(f"policy.name={name} is not a policy: it must be a subclass of rlvla3.policies.base.Policy")
    return found
