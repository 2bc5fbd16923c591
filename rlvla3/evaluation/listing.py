"""`rlvla3 eval --protocols`: all protocols and what each fixes, in words."""

from __future__ import annotations

from collections.abc import Iterator

from rlvla3.evaluation.finding import PROTOCOLS
from rlvla3.evaluation.protocol import ANY, Protocol
from rlvla3.metadata import shown


def protocols_in_words() -> str:
    """A heading for each simulator, and a paragraph for each protocol."""
    lines = ["Use one with `rlvla3 eval RUN_DIR --protocol NAME`. docs/evaluation.md says more."]
    for simulator in dict.fromkeys(protocol.simulator for protocol in PROTOCOLS):
        lines += ["", simulator]
        for protocol in PROTOCOLS:
            if protocol.simulator == simulator:
                lines += [f"  {protocol.name}: {protocol.about}", *(f"    {line}" for line in _lines(protocol))]
    return "\n".join(lines)


def _lines(protocol: Protocol) -> Iterator[str]:
    yield f"source: {protocol.source}"
    if protocol.missing:
        yield f"cannot be run: {protocol.missing}"
        return
    states = f", from initial states {protocol.states} in order" if protocol.states else ""
    yield f"episodes: {protocol.episodes} of each task{states}"
    if protocol.tasks:
        some = f"{', '.join(protocol.tasks[:5])}, ..." if len(protocol.tasks) > 10 else ", ".join(protocol.tasks)
        yield f"tasks: {len(protocol.tasks)} ({some})"
    for family, limits in {"": protocol.limits, **protocol.limits_of}.items():
        of = f" of {family}" if family else ""
        alike = len(set(limits.values())) == 1
        yield f"longest episode{of}, in steps: " + (str(next(iter(limits.values()))) if alike else ", ".join(f"{key} {limit}" for key, limit in limits.items()))
    for family, settings in {"": protocol.settings, **protocol.settings_of}.items():
        yield f"simulator{f' of {family}' if family else ''}: " + ", ".join(f"{key}={shown(value)}" for key, value in settings.items())
    if protocol.frames:
        yield "frames of pretrained policies: " + ", ".join(f"{key}={shown(value)}" for key, value in protocol.frames.items())
    if protocol.chunks:
        yield "executed actions of a chunk: " + ", ".join(
            f"{chunk} ({'all pretrained policies' if family == ANY else family})" for family, chunk in protocol.chunks.items()
        )
    for fact in protocol.facts:
        yield f"also: {fact}"
    for difference in protocol.differences:
        yield f"not the same here: {difference}"
