"""How the passes of training are made: gradient checkpointing, and compilation."""

from __future__ import annotations

from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from rlvla3.policies.base import Policy


def checkpoint_blocks(policy: Policy) -> None:
    """From now on, the policy's blocks keep only their inputs, and compute the rest again in the backward pass (Chen et al., arXiv 1604.06174).

    Blocks draw no random numbers, so no state of a generator is kept.
    """
    for block in policy.sharded_blocks():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def compile_evaluation(policy: Policy) -> None:
    """From now on, `policy.evaluate` is compiled for each kind of input that it is called with."""
    policy.evaluate = torch.compile(policy.evaluate)  # type: ignore[method-assign]
