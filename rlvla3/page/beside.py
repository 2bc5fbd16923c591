"""The page beside a run, for `rlvla3 train --watch`: a process of its own, so that no step of the run waits for it.

Run as a program, this file serves the page of the run directory that it is given, until its stdin ends: the process that has started it is gone then, however
it ended.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rlvla3.errors import ExplainedError, explanation
from rlvla3.observability.events import Event
from rlvla3.page.watching import serve_page

ENDED_WITHIN_S = 3.0


class PageBeside:
    """The watcher that has a page beside the run. tell: gives a notice, of where the page is, and of its end where it ends before the run."""

    def __init__(self, run: Path, tell: Callable[[str], None]) -> None:
        self._run, self._tell, self._closed = run, tell, False
        command = [sys.executable, "-m", "rlvla3.page.beside", str(run)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
        )
        threading.Thread(target=self._listen, name="what the page says", daemon=True).start()

    def on(self, event: Event) -> None:
        """Does nothing: the page reads what the run writes."""

    def close(self) -> None:
        self._closed = True
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(ENDED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            said = line.strip()
            if said.startswith("open "):
                self._tell(f"the page of this run: {said.removeprefix('open ')}")
        if not self._closed:
            self._tell(f"the page has ended ({said[:200]}), and the run goes on: `rlvla3 watch {self._run}` shows it again")


def main() -> int:
    """Serve the page of the run directory that is named, until stdin ends."""
    try:
        serve_page(Path(sys.argv[1]), "127.0.0.1", None, None, "", until=sys.stdin)
    except (ExplainedError, OSError) as error:
        print(explanation(error) or error, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
