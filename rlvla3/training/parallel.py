"""How the policy lies on the ranks: as whole copies (data_parallel.py) or in shards (fsdp.py)."""

from __future__ import annotations

from rlvla3.config import TrainingConfig
from rlvla3.policies.base import Policy
from rlvla3.training.data_parallel import DataParallel
from rlvla3.training.ranks import Ranks


def spread(policy: Policy, config: TrainingConfig, ranks: Ranks) -> DataParallel:
    """Lay `policy`, which is the same on all ranks, out as the recipe says."""
    if not config.shards_policy:
        return DataParallel(policy, ranks)
    from rlvla3.training.fsdp import FullySharded  # takes a second to import, and only who shards needs it

    return FullySharded(policy, ranks, config.precision)
