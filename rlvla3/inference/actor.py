"""A policy on its device.

    waiting rows, instructions, noise -> [padding to a size] -> act, as the way of acting says -> decisions in host memory

Invariants:
- an actor answers as `Policy.act` does, whatever the way and the padding: up to rounding on a GPU and for compiled code, and bit for bit on a CPU, eager, where
  a batch is not padded;
- after `prepare`, no batch allocates memory on the device, and the sizes do not change;
- at most one batch is computed at a time. The next one may begin when the last one has ended, before its decisions are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.choices import Inference
from rlvla3.errors import RecipeError
from rlvla3.inference.answers import Answer, Returning
from rlvla3.inference.choice import Way, choose_way
from rlvla3.inference.graphs import NotCapturable, Recorder, Unread, check_capturable
from rlvla3.inference.inputs import Fixed, Waiting
from rlvla3.inference.sizes import size_for, sizes_up_to
from rlvla3.policies.base import Decisions, Observations, Policy
from rlvla3.policies.expected_answers import ExpectedAnswers
from rlvla3.types import observation_layout

MEASURED_RUNS = 3
"""Runs of each size that are timed at the start."""

Tell = Callable[[str], None]


class Actor:
    """Takes what was asked, and lets the policy decide.

        actor = Actor(policy, device, "graphs", largest=64)
        actor.prepare()
        actor.waiting.rows(2)["state"][:] = ...; actor.waiting.add(2)          # beside what the device computes
        answer = actor.begin([1, 0], instructions, noise, explore)             # the rows that decide, in this order
        await answer.ended(thread)

    largest: decisions in one batch. `prepare` lowers it where the device has too little memory. padded: whether batches are filled up to `sizes`. None means as
    the way of acting needs it. measured: {size: seconds}, from `prepare`. notices: what the user should know.
    """

    def __init__(self, policy: Policy, device: torch.device, way: Way, largest: int, padded: bool | None = None) -> None:
        self.policy, self.device, self.way, self.largest = policy, device, way, largest
        self.expected = ExpectedAnswers(policy)
        self._layout = observation_layout(policy.spaces)
        self._on_gpu = device.type == "cuda"
        copying = torch.cuda.Stream(device, priority=torch.cuda.current_stream(device).priority) if self._on_gpu else None
        self._waiting = [Waiting(self._layout, device, largest if self._on_gpu else 1, copying) for _ in range(2 if self._on_gpu else 1)]
        self._returning = Returning(device, largest)
        self._noise_shape = policy.options.noise_shape(policy.spaces, policy.chunk)
        self._sizes = sizes_up_to(largest) if (way != "eager" if padded is None else padded) else ()
        self._fixed: Fixed | None = None
        self._functions: dict[int, Callable[[], Decisions]] = {}
        self.measured: dict[int, float] = {}
        self.notices: list[str] = []

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that batches are filled up to. Empty where each batch is computed as it is."""
        return self._sizes

    @property
    def beside_host(self) -> bool:
        """Whether the device computes while the host goes on."""
        return self._on_gpu

    @property
    def waiting(self) -> Waiting:
        """The rows that the next batch takes."""
        return self._waiting[0]

    def prepare(self, tell: Tell = lambda _: None) -> None:
        """Record or compile each size, largest first, and measure it. tell: takes a sentence about progress.

        Raises NotCapturable for a policy that cannot be recorded, and RecipeError where memory is too short for a single decision.
        """
        if not self._sizes:
            return
        self._fixed = self._make_fixed()
        recorder = Recorder(self.device) if self._on_gpu and self.way != "eager" else None
        for size in reversed(self._sizes):
            try:
                seconds = self._prepare(size, recorder)
            except torch.OutOfMemoryError:
                self._lower(size)
                continue
            self.measured = {size: seconds, **self.measured}
            tell(f"{size} decisions at once: {1000 * seconds:.2f} ms")

    def begin(self, order: Sequence[int], instructions: Sequence[str], noise: NDArray[Any], explore: NDArray[Any]) -> Answer:
        """Decide for the rows `order` of `waiting`. instructions, noise [B, ...] and explore [B] are in that order. The rows count as taken."""
        waiting, rows = self._waiting[0], len(order)
        with torch.no_grad():
            if self._sizes:
                decisions = self._functions[self._bring(waiting, order, instructions, noise, explore)]()
            else:
                decisions = self._within_one_cast(self.policy.act, *self._as_they_are(waiting, order, instructions, noise, explore))
            answer = self._returning.bring(decisions, rows)
        waiting.clear()
        self._waiting.reverse()
        return answer

    def _as_they_are(
        self, waiting: Waiting, order: Sequence[int], instructions: Sequence[str], noise: NDArray[Any], explore: NDArray[Any]
    ) -> tuple[Observations, Tensor, Tensor]:
        """The inputs of a batch that is not padded."""
        waiting.arrive()
        picked = _picked(order)
        shown = {name: tensor[picked] for name, tensor in waiting.device.items()}
        words = {name: tensor.to(self.device) for name, tensor in self._words(waiting, order, instructions).items()}
        seen = _observations(shown, instructions, words)
        return seen, torch.from_numpy(noise).to(self.device), torch.from_numpy(explore).to(self.device)

    def _bring(self, waiting: Waiting, order: Sequence[int], instructions: Sequence[str], noise: NDArray[Any], explore: NDArray[Any]) -> int:
        """Bring a batch to the fixed addresses. Returns the size that it is filled up to."""
        assert self._fixed is not None
        size = size_for(len(order), self._sizes)
        words = {f"words.{name}": tensor for name, tensor in self._words(waiting, order, instructions).items()}
        given = {"order": torch.tensor(order), "noise": torch.from_numpy(noise), "explore": torch.from_numpy(explore)}
        self._fixed.fill(size, waiting, {**given, **words})
        return size

    def _words(self, waiting: Waiting, order: Sequence[int], instructions: Sequence[str]) -> Mapping[str, Tensor]:
        """What the policy makes of the instructions, and of the states where it puts them into words."""
        picked = _picked(order)
        return self.policy.tokenise(Observations({}, waiting.host["state"][picked], waiting.host["elapsed"][picked], instructions)).words

    def _make_fixed(self) -> Fixed:
        instruction = next(iter(self.policy.spaces.instructions), "")
        words = self.policy.tokenise(Observations({}, self.waiting.host["state"][:1], self.waiting.host["elapsed"][:1], [instruction])).words
        examples = {f"words.{name}": tensor for name, tensor in words.items()}
        examples |= {"noise": torch.zeros(1, *self._noise_shape), "explore": torch.zeros(1, dtype=torch.bool)}
        return Fixed(examples, self._layout, self.device, self.largest)

    def _prepare(self, size: int, recorder: Recorder | None) -> float:
        """Make the function of one size, and time it."""
        assert self._fixed is not None
        act = partial(self._act, self._compiled(size), self._fixed.rows(size))
        with torch.no_grad():
            act()  # constants are made now
            if self.way == "graphs":
                check_capturable(act)
            self._functions[size] = act if recorder is None else recorder.record(act)
            return self._seconds(self._functions[size])

    def _act(self, function: Callable[..., Decisions], rows: Mapping[str, Tensor]) -> Decisions:
        shown = {name: rows[name] for name in self._layout}
        words = {name.removeprefix("words."): tensor for name, tensor in rows.items() if name.startswith("words.")}
        return self._within_one_cast(function, _observations(shown, Unread(), words), rows["noise"], rows["explore"])

    def _within_one_cast(self, act: Callable[..., Decisions], observations: Observations, noise: Tensor, explore: Tensor) -> Decisions:
        """A policy enters autocast for each of its passes. Within one outer context it casts each weight once a batch, and not once a pass.

        In inference mode autocast would keep no cast, so everything here is in no_grad mode.

        The form of the answer is checked. Nobody waits for that, and the answers of a graph have the same form each time.
        """
        with torch.autocast(self.device.type, enabled=False):
            decisions = act(observations, noise, explore)
        self.expected.check_form(decisions, len(observations))
        return decisions

    def _compiled(self, size: int) -> Callable[..., Decisions]:
        if self.way != "compile":
            return self.policy.act
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, len(self._sizes) + 1)
        return torch.compile(self.policy.act, dynamic=False)

    def _seconds(self, function: Callable[[], Decisions]) -> float:
        """The shortest of some runs."""
        taken = []
        for _ in range(MEASURED_RUNS):
            began = time.perf_counter()
            function()
            if self._on_gpu:
                torch.cuda.synchronize(self.device)
            taken.append(time.perf_counter() - began)
        return min(taken)

    def _lower(self, size: int) -> None:
        """The device has no room for `size` decisions at once."""
        self._sizes = tuple(other for other in self._sizes if other < size)
        if self._on_gpu:
            torch.cuda.empty_cache()
        if not self._sizes:
            raise RecipeError(f"{self.device} has too little memory for a single decision of this policy: raise memory.generator, or use another device")
        self.largest = self._sizes[-1]
        self.notices.append(f"{self.device} has too little memory for {size} decisions at once: a batch has at most {self.largest}")


def _picked(order: Sequence[int]) -> slice | list[int]:
    """Rows as an index. Those that follow each other from the first on are not copied."""
    return slice(len(order)) if list(order) == list(range(len(order))) else list(order)


def _observations(shown: Mapping[str, Tensor], instructions: Sequence[str], words: Mapping[str, Tensor]) -> Observations:
    images = {name.removeprefix("image."): tensor for name, tensor in shown.items() if name.startswith("image.")}
    return Observations(images, shown["state"], shown["elapsed"], instructions, words)


def make_actor(policy: Policy, device: torch.device, setting: Inference, largest: int, moves: bool = False, tell: Tell = lambda _: None) -> Actor:
    """An actor that acts as the setting policy.inference says, prepared. moves: see choose_way.

    With `auto`, a policy that cannot be recorded acts eagerly, and a notice says why. With another setting, that is a RecipeError.
    """
    actor = Actor(policy, device, choose_way(setting, device.type, moves), largest)
    try:
        actor.prepare(tell)
        return actor
    except NotCapturable as error:
        name = type(policy).__name__
        if setting != "auto":
            raise RecipeError(f"policy.inference={setting} is not possible for {name}: {error}. Change the policy, or set policy.inference=eager") from error
        eager = Actor(policy, device, "eager", largest)
        eager.notices.append(f"{name} acts eagerly, because a CUDA graph cannot hold it: {error}")
        return eager
    except torch._dynamo.exc.TorchDynamoException as error:
        raise RecipeError(f"policy.inference=compile: torch.compile failed: {str(error).strip()}. Set policy.inference=auto") from error
