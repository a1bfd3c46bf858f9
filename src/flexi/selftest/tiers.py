"""`flexi test`: linters and every test of flexi itself, in tiers."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from rich.console import Console

from flexi.errors import EXIT_FAILED, EXIT_OK, InputError
from flexi.paths import ROOT


class Tier(StrEnum):
    ALL = "all"
    QUICK = "quick"
    LAB = "lab"


QUICK_TESTS = ("tests/plan", "tests/contract", "tests/unit")
"""The files that take longest come first: at the end no processor waits for the other."""
LAB_TESTS = ("tests/lab",)


def steps(tier: Tier, pytest_args: Sequence[str]) -> list[list[str]]:
    """The commands of a tier, in order."""
    python = [sys.executable, "-m"]
    # Each file of tests in one process, in this order and not that of their number of tests.
    in_order = ["--dist", "loadfile", "--no-loadscope-reorder"]
    quick = [
        [*python, "ruff", "check", "."],
        [*python, "ruff", "format", "--check", "."],
        [*python, "mypy"],
        [*python, "pytest", *in_order, "-n", "auto", *QUICK_TESTS, *pytest_args],
    ]
    # Labs side by side: each file of tests has one of them for itself, and most of its time is waiting. In the order of
    # their numbers: some leave a lab that an earlier one could not begin with (a newer kernel).
    lab = [[*python, "pytest", *in_order, "-n", "3", *LAB_TESTS, *pytest_args]]
    return {Tier.QUICK: quick, Tier.LAB: lab, Tier.ALL: quick + lab}[tier]


def run(tier: Tier, pytest_args: Sequence[str], console: Console) -> int:
    """Run the tier's commands; the first that fails ends the run. InputError where the lab needs root."""
    if tier is not Tier.QUICK and os.geteuid() != 0:
        raise InputError("the end-to-end tests make machines and networks and need root; ./flexi test quick does not")
    start = time.monotonic()
    # Compiled once and kept: without it, each of some hundred processes compiles flexi and the tests anew.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for command in steps(tier, pytest_args):
        console.print(f"$ {shlex.join([Path(command[0]).name, *command[1:]])}", highlight=False, soft_wrap=True)
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if done.returncode != 0:
            return EXIT_FAILED
    console.print(f"{tier} tests passed in {time.monotonic() - start:.0f} s", highlight=False)
    return EXIT_OK
