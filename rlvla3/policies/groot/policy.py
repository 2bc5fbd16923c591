"""GR00T N1.5 as a policy: its network with a flow head."""

from __future__ import annotations

from rlvla3.policies.groot.family import GR00TOptions
from rlvla3.policies.groot.network import GR00T
from rlvla3.policies.vla.flow_policy import FlowVLAPolicy


class GR00TPolicy(FlowVLAPolicy):
    """GR00T N1.5 (NVIDIA, arXiv 2503.14734)."""

    Options = GR00TOptions
    options: GR00TOptions

    def make_network(self) -> GR00T:
        return GR00T(self.options.model)
