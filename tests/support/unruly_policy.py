"""A policy that changes the folder of its process."""

from __future__ import annotations

import os
from typing import Any

from rlvla3.policies.actor_critic import ActorCritic


class Wanderer(ActorCritic):
    """Goes where relative paths mean nothing."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        os.chdir("/proc")
