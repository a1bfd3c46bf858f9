"""Nothing that people do in the chat makes a packet leave the machines' own network."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from chat_person import member
from lab_site import Figure, Site

from flexi.lab import network

pytestmark = pytest.mark.usefixtures("site")

BOT = "course-statistik-1"
WATCH = """
table inet outside {
  set left { type ipv4_addr . inet_proto . ipv4_addr; size 65535; flags dynamic; counter; }
  chain forward {
    type filter hook forward priority 0;
    iifname "br0" oifname "uplink" ct direction original add @left { ip saddr . meta l4proto . ip daddr counter }
  }
}
"""
"""What a machine begins itself and what goes to the world; answers to those who asked from outside are neither."""


class Watch:
    def __init__(self, site: Site) -> None:
        self._inside = network.inside(site.lab.naming.router)

    def nft(self, *arguments: str, stdin: str = "") -> str:
        command = [*self._inside, "nft", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    def left(self) -> set[str]:
        """From where, by which protocol, to where."""
        listed = json.loads(self.nft("-j", "list", "set", "inet", "outside", "left"))
        elements = next(entry["set"].get("elem", []) for entry in listed["nftables"] if "set" in entry)
        return {" ".join(map(str, element["elem"]["val"]["concat"])) for element in elements}


@pytest.fixture
def watch(site: Site) -> Iterator[Watch]:
    watching = Watch(site)
    watching.nft("-f", "-", stdin=WATCH)
    # The clocks ask for time servers' names, which are not in the lab. Other tests leave machines that are on and that
    # the site file does not name; the router sees theirs too.
    running = [machine.name for machine in site.lab.status() if machine.state != "off"]
    ticking = [name for name in running if site.ssh(name, "systemctl is-active -q systemd-timesyncd").status == 0]
    for name in ticking:
        assert site.ssh(name, "sudo systemctl stop systemd-timesyncd").status == 0
    watching.nft("flush", "set", "inet", "outside", "left")
    yield watching
    watching.nft("delete", "table", "inet", "outside")
    for name in ticking:
        site.ssh(name, "sudo systemctl start systemd-timesyncd")


def test_no_packet_leaves_while_people_talk_to_the_chat(site: Site, watch: Watch, figure: Figure) -> None:
    assert site.ssh("gateway", "sudo systemctl restart flexi-chat", timeout_s=300).status == 0
    with member(site) as person:
        answer = person.ask(BOT, "Wann und wo ist die Klausur?")
        assert answer["sources"]
        person.ask("phi3:3.8b", "Look at https://example.com/ and http://203.0.113.9/picture.png")
        person.write("Ein Gespräch", BOT)
    for unit in ("flexi-chat-cleaning", "flexi-courses"):
        assert site.ssh("gateway", f"sudo systemctl start {unit}", timeout_s=300).status == 0
    assert watch.left() == set()

    # The same watch, on something that leaves.
    site.ssh("gateway", "curl -s -m 2 http://203.0.113.9/")
    assert len(watch.left()) == 1
    figure("the chat started, answered and was cleaned: 0 packets to the world")
