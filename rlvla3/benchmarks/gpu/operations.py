"""How many floating-point operations and bytes a policy needs: what the limits of a device are compared with.

Operations are counted by torch while the policy runs on fake tensors, which have shapes and no numbers. So nothing is computed, and a policy of any size is
counted on any machine. A multiplication and an addition are two operations. Products, convolutions and attention count; everything else is far less.

Counting runs in a process of its own, beside the measurement: policies keep some small tensors from call to call, and a fake one must not be among them.

The count is of the policy itself: operations that a padded batch or gradient checkpointing adds are work, but no operations of the policy. So a share of the
limit says how much of the device's time was useful.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rlvla3.benchmarks.gpu.policies import POLICIES
from rlvla3.planning.profiling.experience import noise_for, observations_for
from rlvla3.policies.base import Decisions, Policy
from rlvla3.runtimes.processes.main_module import main_module_hidden

BYTES_OF_BF16 = 2


@dataclass(frozen=True, slots=True)
class Operations:
    """Operations as a linear function of the number of decisions. once: whatever the number. each: for every decision."""

    once: int
    each: int

    def of(self, decisions: int) -> int:
        return self.once + self.each * decisions


@dataclass(frozen=True, slots=True)
class PolicyOperations:
    """acting, learning: operations of an inference, and of a training pass (forward and backward). read: bytes of the weights in bfloat16, each read once.

    Of an embedding only some rows are read, so its table does not count.
    """

    acting: Operations
    learning: Operations
    read: int


@contextmanager
def counting(names: Iterable[str]) -> Iterator[Callable[[str], PolicyOperations]]:
    """Count the operations of the policies with these names, in another process. Inside, call the function for a policy's count: it waits until it is known."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        with main_module_hidden():
            counts = {name: process.submit(count_operations, name) for name in names}
        yield lambda name: counts[name].result()
        process.shutdown(cancel_futures=True)


def count_operations(name: str) -> PolicyOperations:
    """Count the operations of a policy, by its name in policies.py."""
    torch.set_num_threads(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a policy on fake tensors takes the number format of a CPU; operations do not depend on it
    # Of the ways to compute attention, torch's counter knows the plain one on every device.
    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH):
        policy = POLICIES[name].build("cpu")
        (act_one, learn_one), (act_two, learn_two) = _operations(policy, 1), _operations(policy, 2)
    return PolicyOperations(_linear(act_one, act_two), _linear(learn_one, learn_two), read_bytes(policy))


def read_bytes(policy: nn.Module) -> int:
    """Bytes of all weights in bfloat16, without the tables of embeddings."""
    tables = {id(module.weight) for module in policy.modules() if isinstance(module, nn.Embedding)}
    return BYTES_OF_BF16 * sum(parameter.numel() for parameter in policy.parameters() if id(parameter) not in tables)


def counted(call: Callable[[], object]) -> int:
    """The operations of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def _linear(one: int, two: int) -> Operations:
    """From the operations of one decision and of two."""
    return Operations(2 * one - two, two - one)


def _operations(policy: Policy, rows: int) -> tuple[int, int]:
    """The operations of an inference, and of a training pass over the same decisions."""
    observations, noise = observations_for(policy, rows, "cpu"), noise_for(policy, rows, "cpu")
    decided: list[Decisions] = []
    acting = counted(lambda: decided.append(policy.act(observations, noise, torch.ones(rows, dtype=torch.bool))))

    def learn() -> None:
        evaluation = policy.evaluate(observations, decided[0].actions, decided[0].trace)
        loss: Tensor = evaluation.logprob.sum() + evaluation.value.sum()
        loss.backward()

    return acting, counted(learn)
