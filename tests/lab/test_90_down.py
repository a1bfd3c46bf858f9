"""Last: taking the lab down leaves the machine as it was."""

from __future__ import annotations

import subprocess

from lab_site import Site, flexi


def remains(lab_id: str) -> str:
    """Everything on this machine that still names the lab."""
    commands = (
        ["ip", "-o", "link"],
        ["ip", "netns", "list"],
        ["cat", "/proc/self/mountinfo"],
        ["nft", "list", "tables"],
        ["ps", "-eo", "args"],
    )
    found = []
    for command in commands:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found += [f"{command[0]}: {line}" for line in text.splitlines() if lab_id in line and "pytest" not in line]
    return "\n".join(found)


def test_down_leaves_nothing(site: Site) -> None:
    lab_id = site.lab.naming.id
    assert remains(lab_id), "this test cannot see the lab at all"
    done = flexi("lab", "down", "--name", site.lab.name)
    assert done.status == 0, done.text
    assert remains(lab_id) == ""
    assert not site.lab.directory.exists()
    again = flexi("lab", "down", "--name", site.lab.name)
    assert again.status == 0, "taking down what is down is fine"
