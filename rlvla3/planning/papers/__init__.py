"""Published measurements against rehearsals of the same runs: how well the virtual runtime predicts what others measured. docs/papers.md explains it.

Invariants: a rehearsal gives the same figures on every machine, and a row is judged to contradict itself from the printed figures alone.

rows.py          the rows that RL-VLA3 v1 prints (tables.yaml), and which of them contradict themselves or others
calibration.py   a profile from a few rows
rehearsing.py    a row as a recipe of this engine, and its step time
comparing.py     whole tables, each row rehearsed
results.py       a rehearsed table and its errors
d_vla.py         the statements in the text of D-VLA
beyond.py        what this engine's own schedules do with the same costs
table_report.py  the comparisons as tables
"""

from __future__ import annotations

from pathlib import Path

from rlvla3.errors import RecipeError
from rlvla3.observability.figures import write_figures
from rlvla3.planning.papers.beyond import Beyond, go_beyond
from rlvla3.planning.papers.comparing import compare_scaling, compare_table
from rlvla3.planning.papers.d_vla import compare_d_vla
from rlvla3.planning.papers.results import PaperResult
from rlvla3.planning.papers.table_report import print_result

PAPERS = ("table1", "table3", "table4", "scaling", "d-vla", "beyond")


def paper(name: str) -> PaperResult | Beyond:
    """Rehearse one of PAPERS. Raises RecipeError if `name` is none of them."""
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
    """Print the comparison `name`. figures: a JSON file that it is also written to."""
    result = paper(name)
    print_result(result)
    if figures:
        write_figures(result.content(), figures)
