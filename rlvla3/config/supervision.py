"""How long a worker may take, or be silent, before the user is told and before it is killed (rlvla3/runtimes/supervision/watch.py)."""

from __future__ import annotations

from rlvla3.config.section import Seconds, Section


class SupervisionConfig(Section):
    """How long a worker may take, or be silent. The user is told first. Later the worker is killed, and the run goes on as after any other loss.

    The calls of a simulator have limits of their own: `simulator.timeout_s` and `simulator.build_timeout_s`.
    """

    notice_s: Seconds = 15.0
    """Seconds after which the user is told who is late, with what, and who waits for it. For a worker that is known to be slow, the notice
    comes when it takes three times its longest time so far."""

    answer_timeout_s: Seconds = 60.0
    """Seconds. A worker that waits has nothing to do but to answer. If it does not answer for this long, or if somebody has stopped its process for this long,
    it counts as hung."""

    stage_timeout_s: Seconds = 120.0
    """Seconds that a generator or a trainer may spend in one stage: one inference, one pass of training, one loading of weights. A worker that has needed long
    before may take ten times its longest time so far. A worker that is beyond that counts as hung."""

    build_timeout_s: Seconds = 1800.0
    """Seconds that a generator, a trainer or a host may take to be built. Each stage may take this long the first time too, because much is compiled, loaded
    or measured then."""
