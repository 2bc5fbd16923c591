"""What failed in a run: how it ended, its lost workers, its reruns, and the notices that tell of trouble."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from rlvla3.metadata import shortened
from rlvla3.observability.formatting import duration, number_of
from rlvla3.page.at_work import Signs
from rlvla3.page.run_metrics import Told

TROUBLE = re.compile(
    r"\b(lost|failed|fails|damaged|could not|cannot|not waited for|left out|set aside|given up|removed|killed|late|hangs?|does not answer|missing|gone)\b",
    re.IGNORECASE,
)
"""Words of a notice that tells of trouble. Others tell where a checkpoint is, or what was chosen."""

HARMLESS = re.compile(r"^(initial states|interrupted by|checkpoint \d+ kept)", re.IGNORECASE)

LETTERS = 240


def troubles(notices: Iterable[Told]) -> list[Told]:
    """The notices that tell of trouble, in their order."""
    return [notice for notice in notices if TROUBLE.search(notice.text) and not HARMLESS.match(notice.text)]


def lost_workers(notices: Iterable[Told]) -> int:
    return sum(" was lost" in notice.text for notice in troubles(notices))


def failures(ended: str, signs: Signs, tickets: Mapping[str, int], notices: Iterable[Told]) -> tuple[bool, str]:
    """Whether something failed, and what, in a sentence. signs: of work. tickets: their counts at the last update."""
    said = []
    if ended.startswith("failed"):
        said.append(f"The run failed: {shortened(ended.removeprefix('failed:').strip() or 'no reason is known', LETTERS)}")
    elif ended == "running" and not signs.of_work:
        said.append("The run did not end by itself: its process was killed, or its machine went down" if signs.none_for_certain else _silence(signs))
    trouble = troubles(notices)
    lost = lost_workers(trouble)
    counts = [
        f"{number_of(lost, 'worker')} lost" if lost else "",
        f"{number_of(tickets.get('rerun', 0), 'ticket')} rerun" if tickets.get("rerun") else "",
        f"{number_of(tickets['set_aside'], 'ticket')} set aside" if tickets.get("set_aside") else "",
        f"{number_of(len(trouble) - lost, 'other notice')} of trouble" if len(trouble) > lost else "",
    ]
    if any(counts):
        said.append(", ".join(filter(None, counts)).capitalize())
    if trouble:
        said.append(f"The last one: {shortened(trouble[-1].text, LETTERS)}")
    return bool(said), ". ".join(text.rstrip(".") for text in said) + "." if said else "Nothing failed."


def _silence(signs: Signs) -> str:
    wrote = f"it has written nothing for {duration(signs.quiet_s)}" if math.isfinite(signs.quiet_s) else "it has written nothing"
    nobody = "" if signs.locked is None else "no process of this machine works on it, and "
    return f"The run does not say that it has ended: {nobody}{wrote}"
