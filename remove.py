"""Hosts that leave the site, one after the other; the site file forgets them afterwards."""

from pyinfra import host

from roles import removal, turn

site = host.data.flexi_plan
plan = host.data.flexi_host

mine = turn.number(site, plan.name)
for number in host.loop(turn.numbers(site)):
    turn.begin(number, mine, _sudo=True)
    if number == mine:
        turn.leave([removal.stop(plan, _sudo=True)], _sudo=True)
removal.forget(bool(host.data.get("purge")), _sudo=True)
