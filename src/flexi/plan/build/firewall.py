"""The firewall in the plan."""

from __future__ import annotations

from flexi.catalog import ports
from flexi.plan.build.chat import api_sources, chat_rules
from flexi.plan.build.gateway_tls import http_rules
from flexi.plan.build.gateways import peer_rules, vrrp_sources
from flexi.plan.build.ollama import group_ports
from flexi.plan.model.firewall import FirewallPlan, FirewallRule
from flexi.site.model import Site
from flexi.site.schema.site_file import Host


def firewall_plan(site: Site, name: str, host: Host) -> FirewallPlan:
    content = site.content
    rules = [FirewallRule(port=content.ssh.port, sources=content.ssh.allow_from, purpose="SSH")]
    if name in site.gateways:
        sources = api_sources(site)
        rules += [FirewallRule(port=site.users_port, sources=sources, purpose="gateway"), *http_rules(site)]
        rules += peer_rules(site, name)
    rules += chat_rules(site, name)
    if host.gpus:
        only_gateways = tuple(gateway.address for gateway in site.gateways.values())
        rules.append(FirewallRule(port=ports.AGENT_CHECK, sources=only_gateways, purpose="agent check"))
        rules += [
            FirewallRule(port=port, sources=only_gateways, purpose=f"Ollama {group}")
            for group, port in group_ports(host).items()
        ]
    rules += [
        FirewallRule(port=allowed.port, sources=allowed.sources, purpose=allowed.purpose)
        for allowed in (*content.firewall.allow, *host.firewall.allow)
    ]
    return FirewallPlan(rules=tuple(rules), vrrp_from=vrrp_sources(site, name))
