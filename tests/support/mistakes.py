"""Simulators that make one mistake each, and are correct otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from rlvla3.types import Observation, Outcome
from tests.support.correct import SENTENCES, Correct, Line

# What it says


class SlowToDescribe(Correct):
    @classmethod
    def describe(cls, config):
        time.sleep(1.01)
        return Correct.describe(config)


class DescribesWithARenderer(Correct):
    @classmethod
    def describe(cls, config):
        sys.modules["sapien"] = ModuleType("sapien")
        return Correct.describe(config)


class DescribesAnother(Correct):
    @classmethod
    def describe(cls, config):
        return replace(Correct.describe(config), instructions=())


class AnotherNumberOfSlots(Correct):
    def __init__(self, config, chunk):
        super().__init__(config, chunk)
        self.slots = config.slots + 1


class Sees(Correct):
    """For mistakes in an observation."""

    def look(self, slot):
        seen = super().look(slot)
        self.spoil(seen)
        return seen

    def spoil(self, seen: Observation) -> None:
        raise NotImplementedError


class DoubleState(Sees):
    def spoil(self, seen):
        seen.state = seen.state.astype(np.float64)


class StateAsList(Sees):
    def spoil(self, seen):
        seen.state = list(seen.state)


class FloatImages(Sees):
    def spoil(self, seen):
        seen.images = {"front": seen.images["front"] / np.float32(255)}


class ChannelsFirst(Sees):
    def spoil(self, seen):
        seen.images = {"front": seen.images["front"].transpose(2, 0, 1)}


class AnotherCamera(Sees):
    def spoil(self, seen):
        seen.images = {**seen.images, "wrist": seen.images["front"]}


class ElapsedInSteps(Sees):
    def spoil(self, seen):
        seen.elapsed *= 18


class ElapsedForgotten(Sees):
    def spoil(self, seen):
        seen.elapsed = 0.0


class LongInstruction(Sees):
    def spoil(self, seen):
        seen.instruction = seen.instruction.ljust(257, "!")

    @classmethod
    def describe(cls, config):
        return replace(Correct.describe(config), instructions=tuple(sentence.ljust(257, "!") for sentence in SENTENCES.values()))

    def __init__(self, config, chunk):
        super().__init__(config, chunk)
        self.spaces = self.describe(config)


class UnknownInstruction(Sees):
    def spoil(self, seen):
        seen.instruction += "!"


class StateNotANumber(Sees):
    def spoil(self, seen):
        if seen.elapsed > 0.5:
            seen.state[0] = np.nan


class BlackFrames(Sees):
    def spoil(self, seen):
        seen.images["front"][:] = 0


class BlackFramesNowAndThen(Sees):
    def spoil(self, seen):
        if 0.2 < seen.elapsed < 0.4:
            seen.images["front"][:] = 0


class NearlyFlatFrames(Sees):
    def spoil(self, seen):
        seen.images["front"] //= 100


class FrozenFrames(Correct):
    def draw(self, line):
        return super().draw(self.begin(line.ticket))


# What it returns


class Returns(Correct):
    """For mistakes in an outcome."""

    def execute(self, slot, chunk):
        outcome = super().execute(slot, chunk)
        return self.spoil(outcome, slot)

    def spoil(self, outcome: Outcome, slot: int) -> Any:
        raise NotImplementedError


class DoubleRewards(Returns):
    def spoil(self, outcome, slot):
        return replace(outcome, rewards=outcome.rewards.astype(np.float64))


class RewardsAsList(Returns):
    def spoil(self, outcome, slot):
        return replace(outcome, rewards=list(outcome.rewards))


class OneRewardAChunk(Returns):
    def spoil(self, outcome, slot):
        return replace(outcome, rewards=outcome.rewards.sum(keepdims=True))


class NothingSeenAtTheLimit(Returns):
    def spoil(self, outcome, slot):
        return replace(outcome, observation=None) if outcome.truncated else outcome


class EndsTwice(Returns):
    def spoil(self, outcome, slot):
        return replace(outcome, truncated=outcome.truncated or outcome.terminated)


class SuccessAsNumber(Returns):
    def spoil(self, outcome, slot):
        return replace(outcome, success=float(outcome.success))


class OtherActions(Returns):
    def spoil(self, outcome, slot):
        return replace(outcome, actions=outcome.actions * np.float32(0.5))


class InfiniteReward(Returns):
    def spoil(self, outcome, slot):
        return replace(outcome, rewards=outcome.rewards + np.float32("inf")) if self.lines[slot].steps > 10 else outcome


class NeverSucceeds(Returns):
    def spoil(self, outcome, slot):
        return replace(outcome, success=False)


class ForgetsSuccess(Correct):
    def execute(self, slot, chunk):
        return replace(super().execute(slot, chunk), success=self.lines[slot].steps == 5)

    def is_there(self, line):
        return False


class NeverEnds(Correct):
    def act(self, line, action):
        reward = super().act(line, action)
        line.steps = min(line.steps, 17)
        return reward


class RunsOverItsLimit(Correct):
    def execute(self, slot, chunk):
        outcomes = [super(RunsOverItsLimit, self).execute(slot, None if chunk is None else chunk[part : part + 1]) for part in range(5)]
        last = outcomes[-1]
        if last.observation is not None:
            last.observation.elapsed = min(last.observation.elapsed, 1.0)
        return replace(last, actions=last.actions if chunk is None else chunk, rewards=np.concatenate([outcome.rewards for outcome in outcomes]))

    def is_there(self, line):
        return False


class ForgetsASlot(Correct):
    def step(self, chunks):
        return {}


class ReturnsATuple(Returns):
    def spoil(self, outcome, slot):
        return outcome.observation, outcome.rewards.sum(), outcome.terminated, outcome.truncated, {}


# What it does


class RefusesBounds(Correct):
    def act(self, line, action):
        assert -1 < action < 1 or line.ticket.purpose.value == "demonstrate"
        return super().act(line, action)


class DoesNotClip(Correct):
    def act(self, line, action):
        line.at += 0.1 * (action - np.clip(action, -1, 1))
        return super().act(line, action)


class WildExpert(Correct):
    def expert(self, line):
        return 3 * super().expert(line)


class BrokenExpert(Correct):
    def expert(self, line):
        raise KeyError("gripper")


class DrawsFromTheSystem(Correct):
    def begin(self, ticket):
        return super().begin(replace(ticket, seed=int.from_bytes(os.urandom(4))))


class DependsOnTheProcess(Correct):
    def __init__(self, config, chunk):
        super().__init__(config, chunk)
        self.offset = 1e-8 * int.from_bytes(os.urandom(3))

    def begin(self, ticket):
        line = super().begin(ticket)
        return replace(line, at=line.at + self.offset)


class DrawsOn(Correct):
    """From one generator, from episode to episode."""

    def __init__(self, config, chunk):
        super().__init__(config, chunk)
        self.random = np.random.default_rng(0)

    def begin(self, ticket):
        return replace(super().begin(ticket), at=self.random.uniform(-0.1, 0.1))


class KeepsTheTask(Correct):
    """As long as the seed is the same: what a cache by seed does."""

    def __init__(self, config, chunk):
        super().__init__(config, chunk)
        self.made: dict[int, float] = {}

    def begin(self, ticket):
        line = super().begin(ticket)
        self.made = {ticket.seed: self.made.get(ticket.seed, line.at + 0.01 * len(self.made))}
        return replace(line, at=self.made[ticket.seed])


class SharesWithNeighbours(Correct):
    """What another process would share through a file or a server."""

    shared: ClassVar[dict[int, Line]] = {}

    def __init__(self, config, chunk):
        super().__init__(config, chunk)
        self.lines = self.shared


class ShowsAnotherSlot(Correct):
    """One buffer for the frames of all."""

    def step(self, chunks):
        outcomes = super().step(chunks)
        for outcome in outcomes.values():
            if outcome.observation is not None:
                outcome.observation.images = {"front": self.draw(self.lines[max(chunks)])}
        return outcomes


class ResetsAllSlots(Correct):
    def reset(self, slot, ticket):
        for other in self.lines:
            self.lines[other] = replace(self.begin(self.lines[other].ticket), steps=self.lines[other].steps)
        return super().reset(slot, ticket)


class DependsOnTheSlot(Correct):
    def reset(self, slot, ticket):
        super().reset(slot, ticket)
        self.lines[slot].at += 0.01 * slot
        return self.look(slot)


class DrawsFromTheIndex(Correct):
    def begin(self, ticket):
        return super().begin(replace(ticket, seed=ticket.index))


class IgnoresTheSeed(Correct):
    def begin(self, ticket):
        return replace(super().begin(replace(ticket, seed=1)), ticket=ticket)


class IgnoresTheTask(Correct):
    def begin(self, ticket):
        return super().begin(replace(ticket, task="near"))


# What it survives


class Raises(Correct):
    def act(self, line, action):
        raise ZeroDivisionError("the physics blew up")


class CannotBeBuilt(Correct):
    def __init__(self, config, chunk):
        raise FileNotFoundError("no meshes")


class Hangs(Correct):
    def act(self, line, action):
        while True:
            time.sleep(3600)


class HangsInReset(Correct):
    def reset(self, slot, ticket):
        subprocess.run(["sleep", "3600"], check=True)


class Dies(Correct):
    def act(self, line, action):
        print("the driver says goodbye", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)


class RaisesAtClose(Correct):
    def close(self):
        raise ValueError("closed twice")


class LeavesAThread(Correct):
    def __init__(self, config, chunk):
        super().__init__(config, chunk)
        threading.Thread(target=time.sleep, args=(3600,), name="camera stream").start()


class LeavesAProcess(Correct):
    def __init__(self, config, chunk):
        super().__init__(config, chunk)
        self.server = subprocess.Popen(["sleep", "3600"])
