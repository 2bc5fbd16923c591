"""Puts a pipe, a device or a huge file in the place of each file of good folders, and reads them as commands do: `python -m tests.support.special_files`.

Prints a line for each case before it is read, so that the last line names the case that hangs, and what escaped. It is a program of its own, because a process
that waits in a library for a pipe can only be killed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from rlvla3.benchmarks.fuzz.subject import make_subject
from rlvla3.errors import ExplainedError, explanation

HUGE = 60 << 30


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE)


KINDS: Mapping[str, Callable[[Path], None]] = {
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a huge file": _huge,
}


def main(subject_name: str, kinds: list[str]) -> None:
    """Read every case. kinds: those of the good folders that are tried."""
    with tempfile.TemporaryDirectory() as scratch:
        good, case = Path(scratch) / "good", Path(scratch) / "case"
        good.mkdir()
        subject = make_subject(subject_name, good)
        for kind in kinds:
            for file in sorted(path.relative_to(good / kind) for path in (good / kind).rglob("*") if path.is_file()):
                for name, make in KINDS.items():
                    shutil.rmtree(case, ignore_errors=True)
                    place = case / ("policy" if subject_name == "policies" else "files")
                    shutil.copytree(good / kind, place)
                    (case / "kind.txt").write_text(kind)
                    (case / "form.json").write_text(json.dumps({"form": kind, "layout": {}}))
                    (place / file).unlink()
                    make(place / file)
                    print(f"{kind}: {file} is {name}", flush=True)
                    try:
                        subject.read(case)
                    except ExplainedError:
                        continue
                    except Exception as error:  # whatever escapes is printed, and fails the test
                        if explanation(error) is None:
                            print(f"ESCAPED {type(error).__name__}: {error}", flush=True)
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
