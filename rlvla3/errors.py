"""The base of all errors that users may cause or mend, and what a user is shown of an error.

Invariant: one rule decides how an error is shown, and the command line and every worker process ask `explanation`. Three kinds are shown in words alone:
- an `ExplainedError` explains itself: its message names the value, the limit and the way out;
- the operating system refuses something that the user can mend, such as a full disk or a limit on open files;
- code that is not part of this package raised it: the message names the line of that code.
Every other error is a mistake of ours, and is shown with its traceback.
"""

from __future__ import annotations

import errno
import os
import site
import sysconfig
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

OURS = os.path.realpath(Path(__file__).parent) + os.sep
PYTHON = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
INSTALLED = tuple({os.path.realpath(folder) + os.sep for folder in (*PYTHON, *site.getsitepackages(), site.getusersitepackages())})
"""Folders of Python and of installed packages. What lies elsewhere is code of the user."""

ELSEWHERE = "choose a place that can be written to, for example with --run-dir"
WAYS_OUT: Mapping[int, str] = {
    errno.ENOSPC: "the disk is full: free some space, or write to another disk, for example with --run-dir",
    errno.EDQUOT: "your share of the disk is used up: free some space, or write to another disk, for example with --run-dir",
    errno.EFBIG: "a file became larger than this process may write: raise the limit with `ulimit -f unlimited`",
    errno.EACCES: f"this user has no permission for it: {ELSEWHERE}, or change the permissions",
    errno.EPERM: f"this user has no permission for it: {ELSEWHERE}, or change the permissions",
    errno.EROFS: f"that disk can only be read: {ELSEWHERE}",
    errno.ENOENT: f"there is no such file, and its folder may be missing too: {ELSEWHERE}",
    errno.ENOTDIR: f"a part of that path is a file and not a folder: {ELSEWHERE}",
    errno.EISDIR: "that is a folder, and a file is needed: name a file",
    errno.EEXIST: "something else is there already: choose another name",
    errno.ENAMETOOLONG: "that name is longer than the file system allows: choose a shorter one",
    errno.ELOOP: "the links of that path lead in a circle: choose another path",
    errno.EMFILE: "this process may not open more files: raise the limit with `ulimit -n 4096`, or run fewer simulators (simulator.shards)",
    errno.ENFILE: "the whole machine may not open more files: end other programs, or raise fs.file-max",
    errno.ENOMEM: "the machine has no memory left: end other programs, or lower training.batch or the number of simulators (simulator.shards)",
    errno.EIO: "the disk or the network file system failed: look at the system's log, and write to another disk",
    errno.ESTALE: "the network file system has lost that file: mount it anew, or write to another disk",
}
"""What a user can do about a refusal of the operating system."""

NEEDS_A_FILE = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM}
"""Refusals that only concern a user where they name a file. Without one, we have asked for something wrong."""


class ExplainedError(Exception):
    """An error whose message says all that a user needs: what is wrong, what is allowed, and what to do."""


class RecipeError(ExplainedError, ValueError):
    """A recipe that cannot be run. The message says which value is wrong, what is allowed and what to write instead."""


class WorkerError(ExplainedError, RuntimeError):
    """A worker failed in a way that the run cannot survive. Where the worker's own error did not explain itself, the message holds its traceback."""


def explanation(error: BaseException) -> str | None:
    """All that a user is shown of `error`. None where it is a mistake of ours, to be shown with its traceback."""
    if isinstance(error, ExplainedError):
        return str(error)
    if place := place_in_code_of_user(error):
        return f"{described(error)} ({place})"
    if isinstance(error, OSError) and (way_out := WAYS_OUT.get(error.errno or 0)) and (error.filename is not None or error.errno not in NEEDS_A_FILE):
        about = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
        return f"{about}{way_out} ({error.strerror})"
    if isinstance(error, MemoryError):
        return f"{str(error) or 'memory ran out'}: {WAYS_OUT[errno.ENOMEM]}"
    return None


def place_in_code_of_user(error: BaseException) -> str:
    """Where code of the user raised `error`: the file, line and function that are nearest to the error. Empty if that code did not raise it.

    Code that we call, and that then calls a library which raises, is meant too: what counts is that it stands below our last call.
    """
    theirs = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = os.path.realpath(frame.f_code.co_filename)
        if path.startswith(OURS):
            theirs = ""
        elif not path.startswith(INSTALLED) and Path(path).exists():  # code without a file, such as a dataclass's __init__, is nobody's
            theirs = f"{Path(path).name}, line {line}, in {frame.f_code.co_name}"
    return theirs


def described(error: BaseException) -> str:
    """The kind of `error` and its text, on one line if it has any."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def some_of(names: Sequence[object], most: int = 20) -> str:
    """The first `most` of the names, and how many more there are, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
