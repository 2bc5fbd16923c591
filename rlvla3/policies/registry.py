"""From a policy's name in a recipe to its checked settings, and to the policy itself.

Settings are checked without torch. It is imported only when a policy is built. A user's own policy is named `module:Class`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlvla3.config import PolicyConfig, check_options
from rlvla3.errors import RecipeError
from rlvla3.named import load_named
from rlvla3.policies.options import ActorCriticOptions, MiniVLAOptions, PolicyOptions
from rlvla3.policies.saved_policy import SavedPolicy, read_checkpoint_config
from rlvla3.types import Spaces

if TYPE_CHECKING:
    from rlvla3.policies.base import Policy

__all__ = ["SavedPolicy", "make_policy", "policy_options", "read_checkpoint_config"]

POLICIES: dict[str, tuple[type[PolicyOptions], str]] = {
    "mini_vla": (MiniVLAOptions, "rlvla3.policies.mini_vla:MiniVLA"),
    "actor_critic": (ActorCriticOptions, "rlvla3.policies.actor_critic:ActorCritic"),
}
"""The policies of this package: name -> (the schema of `policy.options`, the class)."""


def policy_options(config: PolicyConfig, spaces: Spaces) -> PolicyOptions:
    """The settings of the policy that `config` names, checked for `spaces`. Raises RecipeError."""
    schema = POLICIES[config.name][0] if config.name in POLICIES else _policy_class(config.name).Options
    options = check_options(schema, config.options, "policy.options")
    options.check(spaces, config.chunk)
    return options


def make_policy(config: PolicyConfig, spaces: Spaces) -> Policy:
    """Build the policy that `config` names for `spaces`, and load the weights of `config.checkpoint` if there is one.

    Raises RecipeError for settings, and PolicyError for a checkpoint, that cannot be used.
    """
    options = policy_options(config, spaces)
    policy = _policy_class(config.name)(spaces, config.chunk, options)
    if config.checkpoint is not None:
        policy.restore(config.checkpoint)
    return policy


def _policy_class(name: str) -> type[Policy]:
    path = POLICIES[name][1] if name in POLICIES else name
    if ":" not in path:
        raise RecipeError(f"policy.name={name} is not known: use {', '.join(POLICIES)}, or module:Class for a policy of your own")
    found = load_named(path, "policy.name")
    from rlvla3.policies.base import Policy

    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise RecipeError(f"policy.name={name} is not a policy: it must be a subclass of rlvla3.policies.base.Policy")
    return found
