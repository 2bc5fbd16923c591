"""RL-VLA3 v1's tables against rehearsals of the same runs: how well the virtual runtime predicts what others measured. docs/papers.md is about it."""

from __future__ import annotations

import json
from pathlib import Path

from rlvla3.errors import RecipeError
from rlvla3.planning.papers.beyond import Beyond, go_beyond
from rlvla3.planning.papers.comparing import compare_scaling, compare_table
from rlvla3.planning.papers.d_vla import compare_d_vla
from rlvla3.planning.papers.results import PaperResult
from rlvla3.planning.papers.table_report import tell

PAPERS = ("table1", "table3", "table4", "scaling", "d-vla", "beyond")


def paper(name: str) -> PaperResult | Beyond:
    """Rehearse one of PAPERS. The same figures on every machine and every time. Raises RecipeError where there is none of that name."""
    match name:
        case "table1" | "table3" | "table4":
            return compare_table(name)
        case "scaling":
            return compare_scaling()
        case "d-vla":
            return compare_d_vla()
        case "beyond":
            return go_beyond()
    raise RecipeError(f"{name} is not a published measurement that can be rehearsed: use one of {', '.join(PAPERS)}")


def main(name: str, figures: Path | None) -> None:
    """Print a comparison; figures: a JSON file for it too."""
    result = paper(name)
    tell(result)
    if figures:
        figures.parent.mkdir(parents=True, exist_ok=True)
        figures.write_text(json.dumps(result.content(), indent=2) + "\n")
