"""What a spawned process knows of the program that started it.

By default Python's `spawn` imports the program's main module again in every new process. A script that trains would then train again in each of its workers,
unless it keeps everything behind `if __name__ == "__main__":`. Workers of rlvla3 need nothing of the main module: what they run is named "module:function".
So the main module is hidden from them, and a script needs no guard. They get the program's `sys.path`: modules beside the script can be imported.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_hidden = threading.Lock()
"""Two threads may start processes at the same time. One that saw the module already hidden would hide it for ever."""


SAFE_PATH, OURS = "PYTHONSAFEPATH", "rlvla3"
"""Python's variable for `python -P`, and the value that says that it is meant for a worker alone."""


@contextmanager
def working_folder_unsearched() -> Iterator[None]:
    """Processes that are started inside import nothing from the folder they start in, before they have this process's `sys.path`.

    multiprocessing starts `python -c ...`, which searches that folder first, even for modules of Python. The folder may be somebody else's run directory.
    """
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = before or OURS
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(SAFE_PATH, None)
        else:
            os.environ[SAFE_PATH] = before


def let_programs_search_their_folder() -> None:
    """In a worker: what it starts finds its modules as it would without rlvla3."""
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]


@contextmanager
def main_module_hidden() -> Iterator[None]:
    """Processes that are spawned inside do not import the main module again."""
    main = sys.modules["__main__"]
    with _hidden:
        kept: dict[str, Any] = {name: main.__dict__[name] for name in ("__file__", "__spec__") if name in main.__dict__}
        # multiprocessing.spawn looks for the module's name in __spec__, and then for its path in __file__.
        main.__dict__.pop("__file__", None)
        main.__spec__ = None
        try:
            yield
        finally:
            main.__dict__.update(kept)
