"""The base of all errors that users may cause or mend.

Invariant: one rule decides how an error is shown. An `ExplainedError` explains itself: its message names the value, the limit and the way out, and is shown
alone. Every other error is a mistake of ours, and is shown with its traceback. The command line and every worker process ask `explains_itself`.
"""

from __future__ import annotations


class ExplainedError(Exception):
    """An error whose message says all that a user needs: what is wrong, what is allowed, and what to do."""


class RecipeError(ExplainedError, ValueError):
    """A recipe that cannot be run. The message says which value is wrong, what is allowed and what to write instead."""


class WorkerError(ExplainedError, RuntimeError):
    """A worker failed in a way that the run cannot survive. Where the worker's own error did not explain itself, the message holds its traceback."""


def explains_itself(error: BaseException) -> bool:
    """Whether the message of `error` is enough for a user."""
    return isinstance(error, ExplainedError)
