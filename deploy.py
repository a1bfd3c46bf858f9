"""The table of contents: which roles run, in which order. What they do follows from the plan alone."""

from pyinfra import host

from roles import agent, base, bundle, chat, courses, cuda, driver, firewall, gateway, ollama, turn

site = host.data.flexi_plan
plan = host.data.flexi_host


def change() -> None:
    """What may interrupt the host's service: one serving host after the other, drained before and verified after."""
    interruptions = [*ollama.retire(plan, _sudo=True)]
    if plan.driver:
        interruptions += driver.install(plan, _sudo=True)
    if plan.ollama:
        # The agent first: it says why an instance does not start, and goes on caring for the others.
        agent.install(plan, agent.install_package(_sudo=True), _sudo=True)
        interruptions += ollama.install(plan, _sudo=True)
    turn.end(plan, interruptions, _sudo=True)


mine = turn.number(site, plan.name)
if plan.driver:
    driver.permit(plan, _sudo=True)
if plan.chat:
    chat.permit(site.chat, _sudo=True)
bundle.install(plan, _sudo=True)
base.install(plan, _sudo=True)
firewall.install(plan, _sudo=True)
if plan.driver:
    driver.prepare(plan.driver, _sudo=True)
if plan.cuda:
    cuda.install(plan.cuda, _sudo=True)
if plan.ollama:
    ollama.fetch(plan.ollama, _sudo=True)
    bundle.bring_models(plan, _sudo=True)
if plan.chat:
    chat.prepare(plan.chat, _sudo=True)
for number in host.loop(turn.numbers(site)):
    if number == mine and plan.driver:
        driver.permit_still(plan, _sudo=True)
    turn.begin(number, mine, _sudo=True)
    if number == mine:
        change()
for number in host.loop(gateway.failover.numbers(site)):
    gateway.failover.begin(site, number, _sudo=True)
    if number == gateway.failover.number(site):
        gateway.install(site, agent.install_package(_sudo=True), _sudo=True)
if plan.chat:
    chat.install(site, plan.chat, _sudo=True)
    courses.install(site.chat, _sudo=True)
# Last: what has moved serves at its new place by now.
ollama.tidy(plan, site, _sudo=True)
