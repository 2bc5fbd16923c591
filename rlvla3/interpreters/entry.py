"""A program: calls one function of rlvla3 in this interpreter, whichever it is. interpreter.py says how it is started.

The one argument is JSON: `call`, the "module:function"; `arguments` of the function; `path`, the folders that are searched for modules; and `instead`, whether
they are searched in place of this interpreter's own folders, or after these.

Invariants:
- rlvla3 is the one that this file is a part of, also where the interpreter has another one installed. Nothing else beside it is found: an installed rlvla3 has
  the packages of another interpreter as its neighbours;
- only the standard library is imported before the function is called.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120  # pathlib is not imported before it is known where modules are searched


def find_rlvla3() -> None:
    """Import rlvla3 from where this file is. The folder of this file is not searched for modules any more, as it is for a program."""
    sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder or ".") != HERE]
    if "rlvla3" not in sys.modules:
        root = os.path.dirname(HERE)  # noqa: PTH120
        spec = importlib.util.spec_from_file_location("rlvla3", os.path.join(root, "__init__.py"), submodule_search_locations=[root])  # noqa: PTH118
        assert spec is not None and spec.loader is not None
        sys.modules["rlvla3"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


find_rlvla3()  # here, and not in `main`: a process that an environment spawns imports its parent's main module, and then needs rlvla3


def main(asked: str) -> None:
    request = json.loads(asked)
    if request["instead"]:
        sys.path[:] = request["path"]
    else:
        sys.path += [folder for folder in request["path"] if folder not in sys.path]
    module, _, function = request["call"].partition(":")
    getattr(importlib.import_module(module), function)(*request["arguments"])


if __name__ == "__main__":
    main(sys.argv[1])
