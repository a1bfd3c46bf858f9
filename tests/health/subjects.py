"""What a check can be about: hosts, models on instances, models at the gateway."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import testinfra
from testinfra.host import Host

from flexi.plan.model.gateway import Backend
from flexi.plan.model.ollama import InstancePlan, ModelOnInstance
from flexi.plan.model.site import HostPlan, Plan
from flexi.ssh import remote


@dataclass(frozen=True)
class Resident:
    """A model on an instance."""

    instance: InstancePlan
    model: ModelOnInstance

    @property
    def host(self) -> str:
        return self.instance.host

    @property
    def label(self) -> str:
        return f"{self.model.name} on {self.instance.group}"


@dataclass(frozen=True)
class Route:
    """A model at the gateway."""

    gateway: str
    backend: Backend

    @property
    def host(self) -> str:
        return self.gateway

    @property
    def label(self) -> str:
        return self.backend.model


class Hosts:
    """testinfra hosts by name, one shared SSH connection each; one that nothing can be asked is tried once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._trouble: dict[str, str] = {}

    def trouble(self, name: str) -> str:
        """Why nothing can be asked there, with OpenSSH's or sudo's own words; empty where all can."""
        if name not in self._trouble:
            host = self._plan.host(name)
            answer = remote.run(host, "sudo -n true", timeout_s=20)
            words = (answer.stderr.splitlines() or [f"exit status {answer.status}"])[-1]
            why = f"{host.ssh.user} may not become root" if answer.reached else "the host does not answer over SSH"
            self._trouble[name] = "" if answer.status == 0 else f"{why}: {words}"
        return self._trouble[name]

    def __getitem__(self, name: str) -> Host:
        if self.trouble(name):
            pytest.fail(self.trouble(name), pytrace=False)
        return connection(self._plan.host(name))


def connection(host: HostPlan) -> Host:
    ssh = host.ssh
    return testinfra.get_host(
        f"ssh://{ssh.user}@{ssh.address}:{ssh.port}",
        ssh_config=ssh.config,
        ssh_identity_file=ssh.identity,
        controlpath=remote.control_path(ssh),
        controlpersist=30,
        timeout=10,
        sudo=True,
    )
