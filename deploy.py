"""The table of contents: which roles run, in which order. What they do follows from the plan alone."""

from pyinfra import host

from roles import agent, base, bundle, chat, courses, cuda, driver, firewall, gateway, ollama, turn

plan = host.data.flexi_plan
host_plan = host.data.flexi_host


def change() -> None:
    """Do what may interrupt the host's service: one serving host after the other, drained before and verified after."""
    interruptions = [*ollama.stop_former_instances(host_plan, _sudo=True)]
    if host_plan.driver:
        interruptions += driver.install(host_plan, _sudo=True)
    if host_plan.ollama:
        # The agent first: it says why an instance does not start, and goes on caring for the others.
        agent.install(host_plan, agent.install_package(_sudo=True), _sudo=True)
        interruptions += ollama.install(host_plan, _sudo=True)
    turn.end(host_plan, interruptions, _sudo=True)


own_turn = turn.number(plan, host_plan)
if host_plan.driver:
    driver.permit(host_plan, _sudo=True)
if host_plan.chat:
    chat.permit(plan, _sudo=True)
bundle.install(host_plan, _sudo=True)
base.install(host_plan, _sudo=True)
firewall.install(host_plan, _sudo=True)
if host_plan.driver:
    driver.prepare(host_plan, _sudo=True)
if host_plan.cuda:
    cuda.install(host_plan.cuda, _sudo=True)
if host_plan.ollama:
    ollama.prepare(host_plan, _sudo=True)
    bundle.bring_models(host_plan, _sudo=True)
if host_plan.chat:
    chat.prepare(host_plan.chat, _sudo=True)
for number in host.loop(turn.numbers(plan)):
    if number == own_turn and host_plan.driver:
        driver.permit_still(host_plan, _sudo=True)
    turn.begin(number, own_turn, _sudo=True)
    if number == own_turn:
        change()
for number in host.loop(gateway.failover.numbers(plan)):
    gateway.failover.begin(plan, number, _sudo=True)
    if number == gateway.failover.number(plan):
        gateway.install(plan, agent.install_package(_sudo=True), _sudo=True)
if host_plan.chat:
    chat.install(plan, host_plan.chat, _sudo=True)
    courses.install(plan.chat, _sudo=True)
# Last: what has moved serves at its new place by now.
ollama.remove_surplus(plan, host_plan, _sudo=True)
