"""What a diagnosis is about, and what comes out of it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from flexi.plan.model.site import HostPlan
from flexi.plan.model.ssh import SshPlan
from flexi.probe import HostTruth, Instance

from .kinds import Kind


@dataclass(frozen=True)
class Finding:
    kind: Kind
    host: str
    what: str
    """What is wrong, with names and numbers."""
    mend: str
    """The command for it, as one line for the admin's shell."""


@dataclass(frozen=True)
class Case:
    """A host that answered: what it should be and what it is."""

    site: str
    """As the commands name it."""
    plan: HostPlan
    truth: HostTruth
    clock_offset_s: float = 0.0
    """How far its clock is ahead at least; 0 where the answer's duration explains the difference."""
    now: float = 0.0

    @property
    def instances(self) -> tuple[Instance, ...]:
        """What was found of the plan's groups. Files of a group that left the plan stay, and say nothing any more."""
        planned = {instance.group for instance in self.plan.ollama.instances} if self.plan.ollama else set()
        return tuple(instance for instance in self.truth.instances if instance.group in planned)

    def finding(self, kind: Kind, what: str, **words: object) -> Finding:
        return finding(kind, self.site, self.plan, what, **words)


def finding(kind: Kind, site: str, plan: HostPlan, what: str, **words: object) -> Finding:
    ssh = ssh_command(plan.ssh)
    mend = kind.mends.format(site=site, host=plan.name, ssh=ssh, user=plan.ssh.user, **words)
    return Finding(kind, plan.name, what, mend)


def ssh_command(ssh: SshPlan) -> str:
    """The `ssh` command that reaches a host as flexi does."""
    argv = ["ssh"]
    if ssh.config:
        argv += ["-F", ssh.config]
    if ssh.identity:
        argv += ["-i", ssh.identity]
    if ssh.port != 22:
        argv += ["-p", str(ssh.port)]
    return shlex.join([*argv, f"{ssh.user}@{ssh.address}"])
