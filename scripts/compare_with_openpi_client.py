"""Evaluate a policy twice, by openpi's own protocol: as openpi's client does it, and with `rlvla3 eval`. Then compare each episode.

    python scripts/compare_with_openpi_client.py RECIPE --tasks libero_goal/8 libero_spatial/0 --episodes 10 --out FOLDER --serve --turn none

RECIPE           a recipe that names policy.checkpoint
--tasks, --episodes   the tasks of LIBERO, and the episodes of each, from initial state 0 on
--without-frames      the client draws nothing and sends black frames; see openpi_libero_client.py
--out            a new folder for results: a file for each suite of the client's, and the folder of the evaluation
--serve          all words after it are for `rlvla3 serve`; --trust is for `rlvla3 eval` too

The server decides for one observation at a time, as batches change the last bits of actions. A policy that starts from noise gets other noise from the server
than in the evaluation, so its episodes differ. Exit code 1 says that an episode differs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

CLIENT = Path(__file__).with_name("openpi_libero_client.py")
RLVLA3 = [sys.executable, "-m", "rlvla3"]

Outcomes = dict[tuple[str, int], tuple[bool, int]]
"""{(task, initial state): (whether it succeeded, after how many steps)}"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("recipe", metavar="RECIPE")
    parser.add_argument("--tasks", nargs="+", required=True, metavar="SUITE/N")
    parser.add_argument("--episodes", type=int, default=50, metavar="N", help="of each task (default: 50)")
    parser.add_argument("--without-frames", action="store_true", help="the client draws nothing and sends black frames")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], metavar="WORD", help="all words after it are for `rlvla3 serve`")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True)
    asked = ["--episodes", str(arguments.episodes), *["--without-frames"] * arguments.without_frames]
    clients = of_client(arguments.recipe, arguments.tasks, asked, arguments.out, arguments.serve)
    ours = of_evaluation(arguments.recipe, arguments.tasks, arguments.episodes, arguments.out / "evaluation", "--trust" in arguments.serve)
    return compared(clients, ours)


def of_client(recipe: str, tasks: Sequence[str], asked: Sequence[str], out: Path, words: Sequence[str]) -> Outcomes:
    """What openpi's client finds, which asks a server of ours. asked: more words for the client. words: for the server."""
    outcomes: Outcomes = {}
    with served(recipe, words) as port:
        for suite, numbers in groupby(sorted(tasks), key=lambda task: task.partition("/")[0]):
            file = out / f"{suite}.json"
            chosen = ["--tasks", *(task.partition("/")[2] for task in numbers), "--port", str(port), "--json", file]
            subprocess.run([sys.executable, CLIENT, suite, *chosen, *asked], check=True)
            outcomes |= read(file)
    return outcomes


def of_evaluation(recipe: str, tasks: Sequence[str], episodes: int, out: Path, trust: bool) -> Outcomes:
    """What `rlvla3 eval --protocol openpi` finds."""
    settings = [f"simulator.tasks=[{','.join(tasks)}]", f"evaluation.episodes={episodes * len(tasks)}"]
    subprocess.run([*RLVLA3, "eval", recipe, *settings, "--protocol", "openpi", "--run-dir", out, *["--trust"] * trust], check=True)
    return read(out / "results.json")


def compared(clients: Outcomes, ours: Outcomes) -> int:
    """Print each episode. 0 if both are the same in all of them, and 1 otherwise."""
    for task, state in sorted(clients.keys() | ours.keys()):
        theirs, here = clients.get((task, state)), ours.get((task, state))
        print(f"{task} state {state}: client {in_words(theirs)}, rlvla3 {in_words(here)}{'' if theirs == here else '   DIFFERENT'}")
    same = sum(clients.get(episode) == ours.get(episode) for episode in clients.keys() | ours.keys())
    print(f"{same} of {len(clients.keys() | ours.keys())} episodes are the same; {sum(success for success, _ in ours.values())} succeed")
    return 0 if clients == ours else 1


@contextmanager
def served(recipe: str, words: Sequence[str]) -> Iterator[int]:
    """A server for the policy, which ends afterwards. Gives its port."""
    server = subprocess.Popen([*RLVLA3, "serve", recipe, "--port", "0", "--max-batch", "1", *words], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    lines = printed(server.stdout)
    port = next((int(found[1]) for line in lines if (found := re.search(r"listening on ws://\S+:(\d+)", line))), None)
    if port is None:
        raise SystemExit(f"the server ended with exit code {server.wait()} before it listened")
    shown = threading.Thread(target=lambda: deque(lines, maxlen=0))  # a full pipe would stop the server
    shown.start()
    try:
        yield port
    finally:
        server.terminate()
        shown.join()
        server.wait()


def printed(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        print(line, end="", flush=True)
        yield line


def read(file: Path) -> Outcomes:
    """The outcomes in results.json, or in the file of the client: the fields that are read have the same names."""
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["episodes"]
    return {(episode["task"], episode["initial_state"]): (episode["success"], episode["steps"]) for episode in found}


def in_words(outcome: tuple[bool, int] | None) -> str:
    return "did not run it" if outcome is None else f"{'succeeds' if outcome[0] else 'fails'} after {outcome[1]} steps"


if __name__ == "__main__":
    sys.exit(main())
