"""The network of one lab: a router namespace with a bridge, and one uplink to this machine.

    host  fx<id> 10.86.N.254 ── uplink 10.86.N.1  router  br0 10.87.0.1 ── eth0 10.87.0.x  machines

Inside, every lab has the same addresses. Outside, 10.86.N.x leads to 10.87.0.x one to one. Traffic to the world is
masqueraded twice: by the router, so that the host needs one route only, and by the host.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from flexi.errors import FlexiError

from . import cache, processes
from .naming import LINK_PREFIX, Naming
from .topology import FLOATING, NETWORK, PREFIX_LENGTH, ROUTER, SERVICES, UPLINK_NETWORK, MachineSpec

HOST_BYTE = 254
LOCK = "network"
FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_INSTANCES = 1024
"""A booted machine takes some ten, and the machines of all labs share root's, which often are 128 (measured)."""
NAMESPACES = Path("/run/netns")
REMEMBERED = Path("/run/flexi-lab")
"""What this machine was like before its first lab."""
SERVICES_NAME = "services"


def endpoints(machines: Sequence[MachineSpec]) -> list[tuple[str, int]]:
    """Everything that has an address in the lab: (name, last byte)."""
    return [(SERVICES_NAME, SERVICES), *((machine.name, machine.host_byte) for machine in machines)]


def create(naming: Naming, machines: Sequence[MachineSpec]) -> int:
    """Make what is missing of the lab's network; returns its N of 10.86.N.0/24.

    FlexiError where a step fails or no network is free.
    """
    with cache.locked(LOCK):
        number = uplink_number(naming)
        if number is not None and _complete(naming, machines):
            return number
        # A network that is half there is made anew; machines in it would be cut off.
        processes.end(processes_inside(naming))
        _remove(naming)
        _remember_host()
        number = _free_number()
        names = [name for name, _ in endpoints(machines)]
        for namespace in (naming.router, *(naming.namespace(name) for name in names)):
            _run("ip", "netns", "add", namespace)
        _ip(naming.router, _router_commands(naming, number, machines))
        for name, byte in endpoints(machines):
            _ip(naming.namespace(name), _machine_commands(byte))
        _nft(naming.router, _router_rules(number, machines))
        _run(*inside(naming.router), "sh", "-c", f"echo 1 >{FORWARD}")
        _ip(None, _uplink_commands(naming, number))
        FORWARD.write_text("1\n", encoding="ascii")
        if int(INOTIFY.read_text(encoding="ascii")) < INOTIFY_INSTANCES:
            INOTIFY.write_text(f"{INOTIFY_INSTANCES}\n", encoding="ascii")
        # Last: `_complete` looks for it.
        _nft(None, _host_rules(naming, number))
        return number


def remove(naming: Naming) -> None:
    """Take the lab's network away, whatever of it there is, and with the last lab every trace on this machine."""
    with cache.locked(LOCK):
        _remove(naming)
        if not _labs_on_this_machine():
            _restore_host()


def uplink_number(naming: Naming) -> int | None:
    """The N of this lab's 10.86.N.0/24; None where it has no uplink."""
    return _numbers_by_link().get(naming.uplink)


def namespaces(naming: Naming) -> list[str]:
    """The lab's network namespaces that exist."""
    if not NAMESPACES.is_dir():
        return []
    names = sorted(path.name for path in NAMESPACES.iterdir())
    return [name for name in names if name == naming.router or name.startswith(f"{naming.router}-")]


def processes_inside(naming: Naming) -> list[processes.Process]:
    """All processes in the lab's network namespaces: they are the lab's, whoever started them."""
    return [process for namespace in namespaces(naming) for process in processes_in(namespace)]


def processes_in(namespace: str) -> list[processes.Process]:
    listing = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    return [process for pid in listing.stdout.split() if (process := processes.Process.of(int(pid)))]


def inside(namespace: str) -> list[str]:
    """Prefix for a command that shall run in a network namespace, and share all else with this machine."""
    return ["nsenter", f"--net={NAMESPACES / namespace}", "--"]


def _router_commands(naming: Naming, number: int, machines: Sequence[MachineSpec]) -> list[str]:
    commands = [
        "link set lo up",
        "link add br0 type bridge",
        f"addr add {NETWORK}.{ROUTER}/{PREFIX_LENGTH} dev br0",
        "link set br0 up",
    ]
    for name, _ in endpoints(machines):
        commands += [
            f"link add {name} type veth peer name eth0 netns {naming.namespace(name)}",
            f"link set {name} master br0 up",
        ]
    return commands


def _machine_commands(byte: int) -> list[str]:
    return [
        "link set lo up",
        f"addr add {NETWORK}.{byte}/{PREFIX_LENGTH} dev eth0",
        "link set eth0 up",
        f"route add default via {NETWORK}.{ROUTER}",
    ]


def _uplink_commands(naming: Naming, number: int) -> list[str]:
    host, router = f"{UPLINK_NETWORK}.{number}.{HOST_BYTE}", f"{UPLINK_NETWORK}.{number}.{ROUTER}"
    return [
        f"link add {naming.uplink} type veth peer name uplink netns {naming.router}",
        f"addr add {host} peer {router}/32 dev {naming.uplink}",
        f"link set {naming.uplink} up",
        f"-n {naming.router} addr add {router} peer {host}/32 dev uplink",
        f"-n {naming.router} link set uplink up",
        f"-n {naming.router} route add default via {host}",
        f"route add {UPLINK_NETWORK}.{number}.0/{PREFIX_LENGTH} via {router}",
    ]


def _router_rules(number: int, machines: Sequence[MachineSpec]) -> str:
    known = [*(byte for _, byte in endpoints(machines)), FLOATING]
    pairs = ", ".join(f"{UPLINK_NETWORK}.{number}.{byte} : {NETWORK}.{byte}" for byte in known)
    return f"""
        table ip lab {{
          chain incoming {{
            type nat hook prerouting priority dstnat;
            iifname "uplink" dnat to ip daddr map {{ {pairs} }}
          }}
          chain outgoing {{
            type nat hook postrouting priority srcnat;
            oifname "uplink" masquerade
          }}
        }}"""


def _host_rules(naming: Naming, number: int) -> str:
    return f"""
        table ip {naming.table} {{
          chain outgoing {{
            type nat hook postrouting priority srcnat;
            ip saddr {UPLINK_NETWORK}.{number}.0/{PREFIX_LENGTH} oifname != "{naming.uplink}" masquerade
          }}
        }}"""


def _complete(naming: Naming, machines: Sequence[MachineSpec]) -> bool:
    wanted = {naming.router, *(naming.namespace(name) for name, _ in endpoints(machines))}
    tables = subprocess.run(["nft", "list", "tables", "ip"], capture_output=True, text=True, check=False).stdout
    return wanted == set(namespaces(naming)) and f"table ip {naming.table}" in tables.splitlines()


def _remove(naming: Naming) -> None:
    """Each step on its own: any of them may have nothing to do."""
    for command in (["nft", "delete", "table", "ip", naming.table], ["ip", "link", "delete", naming.uplink]):
        subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
    for namespace in namespaces(naming):
        _run("ip", "netns", "delete", namespace)


def _remember_host() -> None:
    REMEMBERED.mkdir(exist_ok=True)
    for setting in (FORWARD, INOTIFY):
        before = REMEMBERED / setting.name
        if not before.exists():
            before.write_text(setting.read_text(encoding="ascii"), encoding="ascii")
    # Not os.path.ismount: it does not see a directory that is bound to itself.
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    if f" {NAMESPACES} " not in mounts:
        (REMEMBERED / "netns").touch()


def _restore_host() -> None:
    if not REMEMBERED.is_dir():
        return
    for setting in (FORWARD, INOTIFY):
        before = REMEMBERED / setting.name
        if before.exists():
            setting.write_text(before.read_text(encoding="ascii"), encoding="ascii")
            before.unlink()
    # `ip netns add` makes the directory a mount point of its own, for good.
    if (REMEMBERED / "netns").exists() and NAMESPACES.is_dir() and not any(NAMESPACES.iterdir()):
        subprocess.run(["umount", str(NAMESPACES)], stderr=subprocess.DEVNULL, check=False)
        with contextlib.suppress(OSError):
            NAMESPACES.rmdir()
    (REMEMBERED / "netns").unlink(missing_ok=True)
    REMEMBERED.rmdir()


def _labs_on_this_machine() -> bool:
    links = [link for link in _numbers_by_link() if link.startswith(LINK_PREFIX)]
    return bool(links) or any(path.name.startswith("flexi-") for path in NAMESPACES.glob("*"))


def _numbers_by_link() -> dict[str, int]:
    """Which link has an address in 10.86.N.0/24, and its N."""
    text = subprocess.run(["ip", "-json", "-4", "addr"], capture_output=True, text=True, check=True).stdout
    return {
        link["ifname"]: int(address["local"].split(".")[2])
        for link in json.loads(text)
        for address in link.get("addr_info", [])
        if address.get("local", "").startswith(f"{UPLINK_NETWORK}.")
    }


def _free_number() -> int:
    """The first N whose network neither an address nor a route of this machine touches."""
    text = subprocess.run(["ip", "-json", "-4", "route", "show", "table", "all"], capture_output=True, text=True)
    routes = [route["dst"] for route in json.loads(text.stdout or "[]") if route.get("dst", "default") != "default"]
    return first_free(routes, _numbers_by_link().values())


def first_free(routes: Iterable[str], numbers: Iterable[int]) -> int:
    """The first N of 10.86.N.0/24 that overlaps with no route and is not among `numbers`; FlexiError for none."""
    taken = [ipaddress.ip_network(route, strict=False) for route in routes]
    used = set(numbers)
    for number in range(1, 255):
        network = ipaddress.ip_network(f"{UPLINK_NETWORK}.{number}.0/{PREFIX_LENGTH}")
        if number not in used and not any(network.overlaps(other) for other in taken):
            return number
    raise FlexiError(f"no free network for a lab: every {UPLINK_NETWORK}.N.0/{PREFIX_LENGTH} is taken")


def _ip(namespace: str | None, commands: Iterable[str]) -> None:
    """Run several `ip` commands, in a namespace or in the host's own."""
    for command in commands:
        prefix = ["-n", namespace] if namespace else []
        _run("ip", *prefix, *command.split())


def _nft(namespace: str | None, rules: str) -> None:
    prefix = inside(namespace) if namespace else []
    _run(*prefix, "nft", "-f", "-", text=rules)


def _run(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FlexiError(f"{' '.join(command)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
