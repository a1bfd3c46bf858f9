"""Hosts that leave the site, one after the other; the site file forgets them afterwards."""

from pyinfra import host

from roles import removal, turn

plan = host.data.flexi_plan
host_plan = host.data.flexi_host

own_turn = turn.number(plan, host_plan)
for number in host.loop(turn.numbers(plan)):
    turn.begin(number, own_turn, _sudo=True)
    if number == own_turn:
        turn.end_for_good([removal.stop(host_plan, _sudo=True)], _sudo=True)
removal.clean(bool(host.data.get("purge")), _sudo=True)
