"""What a spawned process knows of the program that started it.

By default Python's `spawn` imports the program's main module again in every new process. A script that trains would then train again in each of its workers,
unless it keeps everything behind `if __name__ == "__main__":`. Workers of rlvla3 need nothing of the main module: what they run is named "module:function".
So the main module is hidden from them, and a script needs no guard. They get the program's `sys.path`: modules beside the script can be imported.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_hidden = threading.Lock()
"""Two threads may start processes at the same time. One that saw the module already hidden would hide it for ever."""


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
