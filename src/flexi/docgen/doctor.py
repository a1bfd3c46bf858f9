"""Makes docs/admin/doctor.md from the table of findings: `python -m flexi.docgen.doctor [--check]`."""

from __future__ import annotations

import string
import sys

from flexi.doctor.kinds import KINDS, Kind
from flexi.paths import ROOT

PAGE = ROOT / "docs/admin/doctor.md"

HEAD = """\
<!-- Made by `python -m flexi.docgen.doctor` from src/flexi/doctor/kinds.py. -->
# The doctor

    ./flexi doctor SITE                  # all hosts, at the same time
    ./flexi doctor SITE --host HOST      # only this one; may be repeated
    ./flexi doctor SITE --json           # for programs

It looks at live hosts, changes nothing there, and says for each fault what is wrong, what it means for users, and the
command that mends it, with your names and addresses in it. One look is one script (`src/flexi/probe/probe.sh`) over
SSH, run by `sudo`; it needs nothing on the host but what a minimal installation has, so it also works on a bare host
and on one that was deployed halfway. Each step of it is bounded in time. What hangs in the kernel all the same ends the
look after two minutes; what was learnt until then is judged.

`verify` asks whether the service is as promised; the doctor asks why not, and what will break next. It also
looks at the service as a whole, as `status` does: agents, HAProxy, the keys that it knows, the ledger, the
chat, every service that a host is held to. Where it finds no error, it runs the health checks of the gateway
and the chat before it says that nothing is wrong; one that fails is the finding `check-fails`.

| exit status | meaning |
| --- | --- |
| 0 | the site is well; there may be warnings |
| 1 | there is an error |
| 2 | the input is wrong (site file, arguments) |

`status`, `verify` and the doctor have [one verdict](monitoring.md#is-the-site-well). An **error** costs users
something now, with the next reboot, or with an upgrade that nobody watches; a **warning** is worth a look. On a
host that flexi was never deployed to only its own state is judged: the system, the clock, the disks, and a
driver that somebody else has installed.

## Findings

`HOST`, `GROUP` and the like stand for names; `ssh HOST` for the full command with the site file's user, address and
configuration.
"""

JSON = """
## JSON

    {"schema": 1, "site": "mysite", "hosts": ["server-a", …], "errors": 1, "warnings": 0,
     "findings": [{"id": "gpu-missing", "severity": "error", "host": "server-a",
                   "what": "nvidia-smi shows 7 of 8 GPUs; …", "means": "its group does not serve, the others do",
                   "mend": "ssh admin@192.0.2.11 sudo systemctl reboot"}]}

`hosts` are those that were looked at. `severity` is `error` or `warning`. An `id` keeps its meaning; new ones may come.

## What it cannot see

- The kernel of the next boot is taken for the newest that is installed, GRUB's own default; `GRUB_DEFAULT` is not read.
- Xid 13, 31, 43 and 45 are not reported: programs cause them by themselves.
- A process in a container of another pid namespace has neither a name nor a unit here; its memory is seen.
- The messages of the running boot only: what the journal has lost is lost.
- On real GPUs nothing of this was tried yet ([the lab](../develop/lab.md#not-tried-on-real-gpus)).
"""

WORDS = {"ssh": "ssh HOST", "site": "SITE"}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for severity, title in (("error", "Errors"), ("warning", "Warnings")):
        parts += [f"\n### {title}\n\n", "| id | what is wrong | it reads | it means | it is mended by |\n"]
        parts.append("| --- | --- | --- | --- | --- |\n")
        parts += [_row(kind) for kind in KINDS.values() if kind.severity == severity]
    return "".join([*parts, JSON])


def _row(kind: Kind) -> str:
    names = [name for _, name, _, _ in string.Formatter().parse(kind.mends) if name]
    mend = kind.mends.format(**{name: WORDS.get(name, name.upper()) for name in names})
    cells = (f"`{kind.id}`", kind.wrong, kind.reads, kind.means, f"`{mend}`")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def stale() -> bool:
    """Whether the page differs from what it should be."""
    return not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page()


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        if stale():
            print("docs/admin/doctor.md is stale: run python -m flexi.docgen.doctor", file=sys.stderr)
        return int(stale())
    if arguments:
        print("usage: python -m flexi.docgen.doctor [--check]", file=sys.stderr)
        return 2
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
