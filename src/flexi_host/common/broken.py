"""What a program of the package ends with where it cannot run."""

from __future__ import annotations


class Broken(Exception):  # noqa: N818 -- said of the program
    """It cannot go on; the message says why. systemd starts it again."""
