"""A profile as a file, and as a few lines to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rlvla3.observability.run_directory import complete_file
from rlvla3.runtimes.virtual.costs import NOTHING, Cost, Profile

WIDTH = 160


class _Dumper(yaml.SafeDumper):
    """Writes each entry of a mapping on a line of its own, and a whole list on one line, so that a long list does not fill a page."""


_Dumper.add_representer(list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True))


def as_yaml(profile: Profile) -> str:
    """The profile in the form that load_profile reads. Default values are left out."""
    tree: dict[str, Any] = profile.model_dump(mode="json", exclude_defaults=True)
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=WIDTH, default_flow_style=False)


def write_profile(profile: Profile, path: Path) -> None:
    """Write the profile to `path`. The file appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as beside:
        beside.write_text(as_yaml(profile))


def lines(profile: Profile) -> Iterator[str]:
    """The profile's costs in plain lines, by size."""
    costs = {stage: cost for stage in Profile.model_fields if isinstance(cost := getattr(profile, stage), Cost) and cost != NOTHING}
    width = max(map(len, costs))
    for stage, cost in costs.items():
        work = ", ".join(f"{size:.4g}: {_ms(seconds)}" for size, seconds in zip(cost.sizes, cost.seconds, strict=True))
        waits = f"; and waits {_ms(cost.waits)}" if cost.waits else ""
        spread = f"; {cost.spread[0]:.2g} to {cost.spread[-1]:.2g} times that" if cost.spread else ""
        yield f"{stage:{width}}  {work} on the {cost.on}{waits}{spread}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
