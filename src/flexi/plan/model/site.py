"""The plan: everything that follows from a site file, ready to be carried out.

Every reader of flexi (roles, health checks, bench, documentation, `flexi plan`) reads these classes and
nothing else, so that none of them can disagree. They are plain frozen data: building them does no I/O.

Units: bytes are `int` bytes, VRAM of a card is `int` bytes, durations are seconds, rates are tokens per second.
"""

from __future__ import annotations

from typing import Literal

from flexi.catalog.frozen import Frozen as _Frozen
from flexi.catalog.platforms import PlatformName
from flexi.plan.model.agent import AgentPlan
from flexi.plan.model.base import BasePlan
from flexi.plan.model.bundle import BundlePlan
from flexi.plan.model.chat import ChatHostPlan, ChatPlan
from flexi.plan.model.cuda import CudaPlan
from flexi.plan.model.driver import DriverPlan
from flexi.plan.model.firewall import FirewallPlan
from flexi.plan.model.gateway import GatewayHostPlan, GatewayPlan
from flexi.plan.model.maintenance import MaintenancePlan
from flexi.plan.model.moodle import MoodlePlan
from flexi.plan.model.ollama import InstancePlan, OllamaPlan
from flexi.plan.model.ssh import SshPlan as SshPlan
from flexi_host.agent.smi import Expected

RoleName = Literal["base", "firewall", "driver", "cuda", "ollama", "agent", "gateway", "chat"]


class HostPlan(_Frozen):
    name: str
    platform: PlatformName
    ssh: SshPlan
    roles: tuple[RoleName, ...]
    """In the order in which they run."""
    gpu_model: str | None
    gpu_count: int
    gpu_memory_mib: int | None = None
    """Memory of one card that the plan counts with."""
    gpu_memory_said: bool = False
    """The site file states it, so that less than a card has is on purpose."""
    gpu_place: str = ""
    """Name of the site file and the line that says which cards these are; empty without cards."""
    base: BasePlan
    firewall: FirewallPlan
    driver: DriverPlan | None
    cuda: CudaPlan | None
    ollama: OllamaPlan | None
    agent: AgentPlan | None
    gateway: GatewayHostPlan | None = None
    chat: ChatHostPlan | None = None
    bundle: BundlePlan | None = None
    """None where the host downloads what it needs."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that every command of a deploy finds on this host."""
    maintenance: MaintenancePlan = MaintenancePlan()

    @property
    def expected_gpus(self) -> Expected | None:
        """What each card of this host has to be; None without cards."""
        if self.gpu_model is None:
            return None
        return Expected(self.gpu_model, self.gpu_memory_mib, self.gpu_memory_said)


class Warning_(_Frozen):  # noqa: N801 (Warning is Python's own)
    """Something that works but that the admin should know; `where` is `file:line` or a plan path."""

    where: str
    message: str


class Plan(_Frozen):
    site: str
    contact: str | None
    hosts: tuple[HostPlan, ...]
    gateway: GatewayPlan
    chat: ChatPlan | None = None
    moodle: MoodlePlan | None = None
    warnings: tuple[Warning_, ...] = ()

    def host(self, name: str) -> HostPlan:
        """The host called `name`; KeyError where the site has none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    @property
    def instances(self) -> tuple[InstancePlan, ...]:
        return tuple(i for h in self.hosts if h.ollama for i in h.ollama.instances)
