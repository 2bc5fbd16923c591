"""All protocols, and which one a name means."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from rlvla3.config import Recipe
from rlvla3.errors import RecipeError
from rlvla3.evaluation import libero, maniskill, metaworld
from rlvla3.evaluation.protocol import Protocol
from rlvla3.metadata import shown

PROTOCOLS: Sequence[Protocol] = (*libero.PROTOCOLS, *metaworld.PROTOCOLS, *maniskill.PROTOCOLS)


def find_protocol(name: str, recipe: Recipe) -> Protocol:
    """The protocol `name` for the simulators of `recipe`. Raises RecipeError where there is none, or where it cannot be run."""
    named = [protocol for protocol in PROTOCOLS if protocol.name == name]
    if not named:
        names = list(dict.fromkeys(protocol.name for protocol in PROTOCOLS))
        nearest = difflib.get_close_matches(name, names, n=1)
        way_out = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(names)}."
        raise RecipeError(f"no protocol is called {shown(name)}: {way_out} `rlvla3 eval --protocols` tells what each fixes")
    simulators = dict.fromkeys(config.name for config in recipe.mixed.values())
    found = [protocol for protocol in named if protocol.simulator in simulators]
    if not found or len(simulators) > 1:
        theirs = " and ".join(protocol.simulator for protocol in named)
        usable = [protocol.name for protocol in PROTOCOLS if protocol.simulator in simulators and not protocol.missing]
        there = f"protocols for {' and '.join(simulators)} are {', '.join(usable)}" if usable else f"there is none for {' and '.join(simulators)}"
        more = ". Evaluate the simulators of this recipe one by one" if len(simulators) > 1 else ""
        raise RecipeError(f"protocol {name} is for {theirs}, and this recipe runs {' and '.join(simulators)}: {there}{more}")
    (protocol,) = found
    if protocol.missing:
        raise RecipeError(f"protocol {name} for {protocol.simulator} cannot be run here: {protocol.missing}")
    if protocol.tasks and len(recipe.mixed) > 1:
        raise RecipeError(f"protocol {name} names its tasks itself, and this recipe has {len(recipe.mixed)} simulators: leave one of them")
    return protocol
