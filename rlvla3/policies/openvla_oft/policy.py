"""OpenVLA-OFT as a policy: its network with a token head, or with the regression head, which can be cloned and evaluated."""

from __future__ import annotations

from rlvla3.policies.heads import ActionHead
from rlvla3.policies.openvla_oft.family import OpenVLAOFTOptions
from rlvla3.policies.openvla_oft.l1 import L1Head
from rlvla3.policies.openvla_oft.network import OpenVLAOFT
from rlvla3.policies.tokens import TokenHead
from rlvla3.policies.vla.policy import VLAPolicy


class OpenVLAOFTPolicy(VLAPolicy):
    """OpenVLA-OFT (Kim et al., arXiv 2502.19645)."""

    Options = OpenVLAOFTOptions
    options: OpenVLAOFTOptions

    def make_network(self) -> OpenVLAOFT:
        return OpenVLAOFT(self.options.model)

    def make_head(self) -> ActionHead:
        model = self.options.model
        if model.head == "l1":
            return L1Head(model.horizon, model.action_size)
        return TokenHead(self.options.tokens, model.horizon, model.action_size)
