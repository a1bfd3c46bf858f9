"""Health checks of a site: read-only, safe in production, expectations from the plan, evidence from the hosts.

`./flexi verify SITE` runs them. By hand: `pytest tests/health --site inventory/SITE.yaml`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from subjects import Hosts, Resident, Route
from testinfra.host import Host

from flexi.plan import build_plan
from flexi.plan.model.site import HostPlan, Plan
from flexi.site import load_site


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--site", type=Path, help="the site file, e.g. inventory/lab.yaml")


@cache
def plan_of(site: Path) -> Plan:
    return build_plan(load_site(site))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    site = metafunc.config.getoption("--site")
    if site is None:
        pytest.exit("the health checks need --site inventory/SITE.yaml", returncode=2)
    plan = plan_of(site)
    marker = metafunc.definition.get_closest_marker("hosts")
    role = marker.args[0] if marker else None
    if "host_plan" in metafunc.fixturenames:
        hosts = [host for host in plan.hosts if role is None or role in host.roles]
        metafunc.parametrize("host_plan", hosts, ids=lambda host: host.name)
    if "resident" in metafunc.fixturenames:
        residents = [Resident(instance, model) for instance in plan.instances for model in instance.models]
        metafunc.parametrize("resident", residents, ids=lambda resident: resident.label)
    if "gateway" in metafunc.fixturenames:
        metafunc.parametrize("gateway", plan.gateway.hosts)
    if "chat" in metafunc.fixturenames:
        metafunc.parametrize("chat", [plan.chat.name] if plan.chat else [])
    if "instance" in metafunc.fixturenames:
        metafunc.parametrize("instance", plan.instances, ids=lambda instance: instance.group)
    if "route" in metafunc.fixturenames:
        routes = [Route(plan.gateway.host, backend) for backend in plan.gateway.backends]
        metafunc.parametrize("route", routes, ids=lambda route: route.label)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is not there is not checked, nor counted as skipped."""
    plan = plan_of(config.getoption("--site"))
    if plan.chat is None:
        items[:] = [item for item in items if "chat" not in getattr(item, "fixturenames", ())]
    if len(plan.gateway.hosts) < 2:
        items[:] = [item for item in items if not item.get_closest_marker("two_gateways")]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "hosts(role): run on the hosts that have this role")
    config.addinivalue_line("markers", "two_gateways: only where the site has two")


@pytest.fixture(scope="session")
def plan(pytestconfig: pytest.Config) -> Plan:
    return plan_of(pytestconfig.getoption("--site"))


@pytest.fixture(scope="session")
def hosts(plan: Plan) -> Hosts:
    return Hosts(plan)


@pytest.fixture
def target(host_plan: HostPlan, hosts: Hosts) -> Host:
    return hosts[host_plan.name]
