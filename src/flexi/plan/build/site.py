"""From a site to its plan. Pure: the same site gives the same plan, and nothing is read or written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexi.catalog import ports, windows
from flexi.plan.build.base import base_plan, proxy_plan
from flexi.plan.build.bundle import from_bundle
from flexi.plan.build.chat import chat_host, chat_plan
from flexi.plan.build.cuda import cuda_plan
from flexi.plan.build.driver import driver_plan
from flexi.plan.build.firewall import firewall_plan
from flexi.plan.build.gateway import gateway_plan
from flexi.plan.build.gateways import gateway_host
from flexi.plan.build.moodle import moodle_plan
from flexi.plan.build.ollama import ollama_plan
from flexi.plan.build.warnings import site_warnings
from flexi.plan.model.agent import AgentPlan
from flexi.plan.model.maintenance import MaintenancePlan
from flexi.plan.model.site import HostPlan, Plan, RoleName
from flexi.plan.model.ssh import SshPlan

if TYPE_CHECKING:
    from flexi.site.model import Site
    from flexi.site.schema.site_file import Host
AGENT_INTERVAL_S = 15


def build_plan(site: Site) -> Plan:
    """The plan of a site that `load_site` found fine. ValueError where it could not have come from there."""
    return Plan(
        site=site.content.site.name,
        contact=site.content.site.contact,
        hosts=tuple(host_plan(site, name, host) for name, host in site.content.hosts.items()),
        gateway=gateway_plan(site),
        chat=chat_plan(site),
        moodle=moodle_plan(site),
        warnings=tuple(site_warnings(site)),
    )


def _gpu_memory_mib(site: Site, host: Host) -> int | None:
    card = site.gpu_bytes(host)
    return card // 2**20 if card else None


def _gpu_place(site: Site, name: str) -> str:
    mark = site.lines.get(("hosts", name, "gpus", "model")) or site.lines.get(("hosts", name, "gpus"))
    return f"{site.path.name}:{mark.line}" if mark else site.path.name


def host_plan(site: Site, name: str, host: Host) -> HostPlan:
    is_gateway = name in site.gateways
    runs_ollama = host.gpus is not None
    roles: list[RoleName] = ["base", "firewall"]
    if runs_ollama:
        roles += ["driver", *(["cuda"] if host.cuda else []), "ollama", "agent"]  # type: ignore[list-item]
    if is_gateway:
        roles.append("gateway")
    chat = chat_host(site, name)
    if chat:
        roles.append("chat")
    proxy = proxy_plan(site)
    plan = HostPlan(
        name=name,
        platform=host.platform,
        ssh=SshPlan(
            address=host.address,
            user=site.content.ssh.user,
            port=site.content.ssh.port,
            config=site.beside(site.content.ssh.config),
            identity=site.beside(site.content.ssh.identity),
        ),
        roles=tuple(roles),
        gpu_model=host.gpus.model if host.gpus else None,
        gpu_count=host.gpus.count if host.gpus else 0,
        gpu_memory_mib=_gpu_memory_mib(site, host),
        gpu_memory_said=bool(host.gpus and host.gpus.memory_mib),
        gpu_place=_gpu_place(site, name) if host.gpus else "",
        base=base_plan(site, name, host),
        firewall=firewall_plan(site, name, host),
        driver=driver_plan(site, host) if runs_ollama else None,
        cuda=cuda_plan(site, host) if runs_ollama and host.cuda else None,
        ollama=ollama_plan(site, name, host) if runs_ollama else None,
        gateway=gateway_host(site, name) if is_gateway else None,
        chat=chat,
        agent=AgentPlan(check_port=ports.AGENT_CHECK, interval_s=AGENT_INTERVAL_S) if runs_ollama else None,
        environment=proxy.environment if proxy else (),
        maintenance=MaintenancePlan(
            reboot_windows=tuple(windows.parse(text) for text in site.content.maintenance.reboots),
            drain_timeout_s=site.content.maintenance.drain_timeout,
        ),
    )
    return from_bundle(site, plan)
