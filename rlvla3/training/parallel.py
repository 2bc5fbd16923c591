"""Chooses how the policy is laid out on the ranks: as whole copies (data_parallel.py) or in shards (fsdp.py)."""

from __future__ import annotations

from rlvla3.config import TrainingConfig
from rlvla3.policies.base import Policy
from rlvla3.training.data_parallel import DataParallel
from rlvla3.training.ranks import Ranks


def distribute_policy(policy: Policy, config: TrainingConfig, ranks: Ranks) -> DataParallel:
    """Lay out `policy` as the recipe says. It must be the same on all ranks."""
    if not config.shards_policy:
        return DataParallel(policy, ranks)
    from rlvla3.training.fsdp import FullySharded  # takes a second to import, so only a sharded run imports it

    return FullySharded(policy, ranks)
