"""The settings of the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlvla3.config.section import Positive, Section


class PolicyConfig(Section):
    """Which policy is trained."""

    name: str = "mini_vla"
    """`mini_vla`, `actor_critic`, or `module:Class` for one of your own."""

    chunk: Positive = 5
    """Actions in one decision. The policy sees a new observation after each chunk."""

    checkpoint: Path | None = None
    """A policy folder to start from. With `null` the policy starts with new weights."""

    options: dict[str, Any] = {}
    """The policy's own settings. Each policy has others."""
