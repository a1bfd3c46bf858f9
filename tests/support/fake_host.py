"""A host for pyinfra's operations whose commands answer as told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyinfra.api import Config, Inventory, State
from pyinfra.api.connect import connect_all
from pyinfra.api.operation import add_op
from pyinfra.api.operations import run_ops

from flexi.plan.model.driver import DriverPlan


class Fake:
    """One host whose commands answer as told; everything else succeeds with no output."""

    def __init__(self, responses: Mapping[str, object], data: Mapping[str, object] | None = None) -> None:
        fake = {"fake_responses": dict(responses), "fake_delay": 0, "fake_delay_jitter": 0}
        inventory = Inventory(([("@fake/host", {**fake, **(data or {})})], {}))
        self.state = State(inventory, Config())
        connect_all(self.state)
        self.host = next(iter(inventory))

    def run(self, operation: Callable[..., Any], **arguments: object) -> tuple[bool, list[str]]:
        """(whether a dry run predicted a change, shell commands that the run executed)."""
        meta = add_op(self.state, operation, **arguments)[self.host]
        predicted = meta.will_change
        before = len(self.host.connector.executed_commands)
        run_ops(self.state)
        return predicted, [str(command) for command in self.host.connector.executed_commands[before:]]


DRIVER = DriverPlan(
    branch="535-server",
    major=535,
    packages=(),
    holds=("linux-generic",),
    pins=(),
    version_package="nvidia-utils-535-server",
    kernel="generic",
    module_package="linux-modules-nvidia-535-server-{release}",
    kernel_packages=("linux-generic",),
    wanted_version=None,
)


INSTALLED = ["ii  nvidia-utils-535-server  535.309.01  amd64  tool", "ii  linux-generic 5.15 amd64 kernel"]
