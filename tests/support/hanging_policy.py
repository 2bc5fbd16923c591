"""A policy that hangs once: in its constructor, or in the fifth call of `act` or of `evaluate` in a process. The next process does not hang."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rlvla3.policies.actor_critic import ActorCritic
from rlvla3.policies.options import ActorCriticOptions


class HangingOptions(ActorCriticOptions):
    """flag: a file that the one process makes that hangs. where: constructor, act or evaluate."""

    flag: str
    where: str


class HangingActorCritic(ActorCritic):
    Options = HangingOptions  # type: ignore[assignment]
    options: HangingOptions

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._calls = 0
        if self.options.where == "constructor":
            self._hang()

    def act(self, *args: Any) -> Any:
        self._count("act")
        return super().act(*args)

    def evaluate(self, *args: Any) -> Any:
        self._count("evaluate")
        return super().evaluate(*args)

    def _count(self, where: str) -> None:
        self._calls += where == self.options.where
        if self._calls == 5:
            self._hang()

    def _hang(self) -> None:
        try:
            Path(self.options.flag).touch(exist_ok=False)
        except FileExistsError:
            return
        time.sleep(3600)
