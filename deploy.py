"""The table of contents: which roles run, in which order. What they do follows from the plan alone."""

from pyinfra import host

from roles import agent, base, cuda, driver, firewall, gateway, ollama

plan = host.data.flexi_host

base.install(plan, _sudo=True)
firewall.install(plan, _sudo=True)
if plan.driver:
    driver.install(plan.driver, _sudo=True)
if plan.cuda:
    cuda.install(plan.cuda, _sudo=True)
if plan.ollama or "gateway" in plan.roles:
    agent.install_package(_sudo=True)
if plan.ollama:
    # The agent first: it says why an instance does not start, and goes on caring for the others.
    agent.install(plan, _sudo=True)
    ollama.install(plan.ollama, plan.gpu_count, _sudo=True)
if "gateway" in plan.roles:
    gateway.install(host.data.flexi_plan, _sudo=True)
