"""Pretrained policies that denoise their actions."""

from __future__ import annotations

from rlvla3.policies.flow import FlowHead
from rlvla3.policies.vla.options import FlowVLAOptions
from rlvla3.policies.vla.policy import VLAPolicy


class FlowVLAPolicy(VLAPolicy):
    """A pretrained policy with a flow head. A family gives its network and its options."""

    options: FlowVLAOptions

    def make_head(self) -> FlowHead:
        # Step by step, so that `evaluate` agrees with `act` to the last bit. The calls are large anyway.
        return FlowHead(self.options.flow, self.options.horizon, self.options.processing.actions.size, self.network.feature_width, together=False)
