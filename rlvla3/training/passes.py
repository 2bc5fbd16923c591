"""How the passes of training are made: gradient checkpointing, and compilation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlvla3.errors import RecipeError
from rlvla3.policies.base import Evaluation, Observations, Policy


def checkpoint_blocks(policy: Policy) -> None:
    """From now on, the policy's blocks keep only their inputs, and compute the rest again in the backward pass (Chen et al., arXiv 1604.06174).

    Blocks draw no random numbers, so no state of a generator is kept.
    """
    for block in policy.sharded_blocks():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def compile_evaluation(policy: Policy) -> None:
    """From now on, `policy.evaluate` is compiled: once for the first size of a micro-batch, and once for all others.

    Where torch.compile fails, as without a compiler, the first pass raises RecipeError.
    """
    compiled = torch.compile(policy.evaluate)

    def evaluate(observations: Observations, actions: Tensor, trace: Mapping[str, Tensor]) -> Evaluation:
        try:
            return compiled(observations, actions, trace)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise RecipeError(f"training.compile=true: torch.compile failed: {_first_paragraph(error)}. Set training.compile=false") from error

    policy.evaluate = evaluate  # type: ignore[method-assign]


def _first_paragraph(error: Exception) -> str:
    return " ".join(str(error).strip().partition("\n\n")[0].split())
