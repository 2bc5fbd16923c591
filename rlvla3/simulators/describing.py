"""Describes simulators in a process of its own, and writes what they say to a pipe, as one line of JSON. description.py starts that process.

The request comes on stdin: the settings of the simulators, and the pipe. What simulators print goes to stdout and stderr, as always.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import traceback
from typing import Any

STACK_AT = 0.9
"""The share of the limit after which the process prints where it is, in case it hangs."""

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer the one request: `described`, what the simulators say; `refused`, one sentence; or `failed`, the traceback of a mistake of ours."""
    request = json.load(sys.stdin)
    _end_with(request["parent"])
    answer = os.dup(request["answer"])  # this one is closed when another program is started
    os.close(request["answer"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    faulthandler.enable()
    faulthandler.dump_traceback_later(STACK_AT * request["seconds"])
    os.write(answer, json.dumps(_answer(request["simulators"]), default=repr).encode() + b"\n")


def _answer(simulators: list[Any]) -> dict[str, Any]:
    from rlvla3.config import SimulatorConfig
    from rlvla3.errors import ExplainedError, described, explanation

    failed = f"simulator.name={simulators[0]['name']} cannot be described"
    try:
        return {"described": [_describe(SimulatorConfig.model_validate(simulator)) for simulator in simulators]}
    except ExplainedError as error:
        return {"refused": str(error)}
    except Exception as error:  # whatever the user's constructor raises is what the description says
        if (sentence := explanation(error)) is None:
            return {"failed": traceback.format_exc()}
        return {"refused": f"{failed}: {sentence}"}
    except BaseException as error:  # code of the user may raise SystemExit, KeyboardInterrupt or an error of its own kind
        return {"refused": f"{failed}: {described(error)}"}


def _describe(config: Any) -> Any:
    from rlvla3.simulators.description import describe_here, plain

    return plain(describe_here(config))


def _end_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
