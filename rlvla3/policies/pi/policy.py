"""pi0, pi0.5 and SmolVLA as policies: their networks with a flow head."""

from __future__ import annotations

from rlvla3.policies.pi.families import Pi0Options, Pi05Options, PiOptions, SmolVLAOptions
from rlvla3.policies.pi.network import Pi
from rlvla3.policies.pi.smolvla import SmolVLA
from rlvla3.policies.vla.flow_policy import FlowVLAPolicy


class PiPolicy(FlowVLAPolicy):
    """What pi0 and pi0.5 share: all but their options."""

    options: PiOptions

    def make_network(self) -> Pi:
        return Pi(self.options.model)


class Pi0(PiPolicy):
    """pi0 (Black et al., arXiv 2410.24164)."""

    Options = Pi0Options


class Pi05(PiPolicy):
    """pi0.5 (Physical Intelligence, arXiv 2504.16054)."""

    Options = Pi05Options


class SmolVLAPolicy(FlowVLAPolicy):
    """SmolVLA (Shukor et al., arXiv 2506.01844)."""

    Options = SmolVLAOptions
    options: SmolVLAOptions

    def make_network(self) -> SmolVLA:
        return SmolVLA(self.options.model)
