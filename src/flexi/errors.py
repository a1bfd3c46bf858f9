"""Exit statuses and the one error that the command line turns into a sentence."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
"""A check or a host failed."""
EXIT_BAD_INPUT = 2
"""The input (site file, arguments, missing rights) is wrong; nothing was touched."""


class FlexiError(Exception):
    """Something a person can act on: the message names the cause and the remedy, and is shown without a traceback."""

    exit_status = EXIT_FAILED


class InputError(FlexiError):
    """The input is wrong; no host was touched."""

    exit_status = EXIT_BAD_INPUT
