"""One machine of a lab: its disk, its power button, commands on it, and faults in its GPUs."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexi.errors import FlexiError, InputError

from . import cgroups, image, network, processes, ssh
from .gpu_sim.kernel import DEVICES, UVM
from .gpu_sim.smi import EVENT_REASONS
from .naming import Naming
from .platforms import PLATFORMS
from .supervisor import AGAIN_FILE, PID_FILE, POWER_PID_FILE, SPEC_FILE, Spec
from .topology import ADMIN, MachineSpec, replacement
from .vendor import repository

ADMIN_UID = 1000
BOOT_TIMEOUT_S = 60.0
HARDWARE_FILE = "/etc/flexi-lab/gpus.json"
FAULTS_FILE = "/etc/flexi-lab/faults.json"
USERLAND_FILE = "/usr/lib/flexi-lab/userland.json"
FOREIGN_UNIT = "flexi-lab-foreign-"
XID_TEXTS = {
    48: ", An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer.",
    79: ", GPU has fallen off the bus.",
}
"""What the driver adds (NVIDIA, "Xid errors"; published logs); other codes come without words."""
UVM_NODE = "/dev/nvidia-uvm"
UVM_MODULE = "/sys/module/nvidia_uvm"
# The list of devices is mounted over /proc/devices: it is written in its place, never replaced.
UNLOAD_UVM = f"""rm -f {UVM_NODE}; touch /run/flexi-lab/uvm-off
list=$(grep -v ' nvidia-uvm$' /{DEVICES}); echo "$list" >/{DEVICES}
mount -o remount,rw /sys; rm -rf {UVM_MODULE}; mount -o remount,ro /sys
"""
"""What `modprobe -r nvidia_uvm` does in the kernel; the node goes as well, as Ubuntu's udev rule does it."""
LOAD_UVM = f"""read major minor </{UVM}
list=$(grep -v ' nvidia-uvm$' /{DEVICES} | sed "/^Character devices:/a $major nvidia-uvm"); echo "$list" >/{DEVICES}
mount -o remount,rw /sys
mkdir -p {UVM_MODULE}; echo live >{UVM_MODULE}/initstate
mount -o remount,ro /sys
[ -e {UVM_NODE} ] || mknod -m 666 {UVM_NODE} c $major $minor; touch /run/flexi-lab/uvm-on
"""
"""What `modprobe nvidia_uvm` does in the kernel, and the node."""
LOOPBACK_RESOLVERS = ("127.", "::1")
SSH_FAILED = 255
"""OpenSSH's exit status when it could not connect."""
MISMATCHED_VERSION = "535.999.01"
"""What the library says after `fault mismatch`: a build that no kernel here has loaded."""


@dataclass(frozen=True)
class Answer:
    """A finished command."""

    status: int
    stdout: str
    stderr: str


class Machine:
    """A machine of the lab that `naming` names. Making the object touches nothing."""

    def __init__(self, naming: Naming, spec: MachineSpec) -> None:
        self._naming = naming
        self.spec = spec
        self.name = spec.name
        self.directory = naming.directory / "machines" / spec.name
        self._ssh_config = naming.directory / ssh.CONFIG

    # -- making and running it ----------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether it has a disk, on or off."""
        return (self.directory / SPEC_FILE).exists()

    def create(self, images: Sequence[Path], vendor: Path, admin_key: str) -> None:
        """Make the machine's disk on these images, the upper one first, unless it has one: whole or not at all.

        FlexiError where it has one, on images that are gone.
        """
        if self.exists:
            # A disk belongs to the images that it was begun on, also when there are newer ones.
            images = [Path(image) for image in Spec.read(self.directory).images]
            if not all(image.exists() for image in images):
                raise FlexiError(f"{self.name}: the base image of its disk is gone: ./flexi lab up --fresh")
        else:
            shutil.rmtree(self.directory, ignore_errors=True)
            draft = self.directory.with_name(f".{self.name}")
            shutil.rmtree(draft, ignore_errors=True)
            for part in ("upper", "work", "root"):
                (draft / part).mkdir(parents=True)
                (draft / part).chmod(0o755)
            self._furnish(draft / "upper", vendor, admin_key)
            draft.rename(self.directory)
        Spec(
            hostname=self.name,
            machine=self._naming.namespace(self.name),
            images=tuple(str(path) for path in images),
            lower=":".join(str(path / image.ROOT) for path in images),
            namespace_path=str(network.NAMESPACES / self._naming.namespace(self.name)),
            cgroup=None if cgroups.systemd_runs_here() else f"{self._naming.router}/{self.name}",
        ).write(self.directory)

    def _furnish(self, upper: Path, vendor: Path, admin_key: str) -> None:
        """Write what makes the machine different from the base image."""
        files = {
            "etc/hostname": f"{self.name}\n",
            "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n::1 localhost ip6-localhost\n",
            "etc/resolv.conf": resolver_configuration(),
            # Empty would mean "first boot", with presets for every unit; a new one for each machine all the same.
            "etc/machine-id": f"{secrets.token_hex(16)}\n",
            HARDWARE_FILE.lstrip("/"): json.dumps(self.spec.gpus, indent=1) + "\n",
            "home/admin/.ssh/authorized_keys": f"{admin_key}\n",
        }
        for name, text in files.items():
            path = upper / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        platform = PLATFORMS[self.spec.platform]
        keyring = upper / platform.keyring
        keyring.parent.mkdir(parents=True)
        shutil.copyfile(vendor / platform.distribution.keyring, keyring)
        lists = upper / "var/lib/apt/lists"
        lists.mkdir(parents=True)
        base_url = platform.base_url.removeprefix("http://")
        repository.copy_indexes(vendor, platform.distribution, platform.suites, base_url, lists)
        ssh.make_key(upper / "etc/ssh/ssh_host_ed25519_key", f"root@{self.name}")
        # Directories of the upper layer replace the base's: same owner and mode. World-readable but for keys.
        for path in [upper, *upper.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        (upper / "etc/ssh/ssh_host_ed25519_key").chmod(0o600)
        home = upper / "home/admin"
        for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
            os.chown(path, ADMIN_UID, ADMIN_UID)
            path.chmod(0o600 if path.is_file() else 0o700)

    @property
    def host_key(self) -> str:
        """The public key line of its SSH server."""
        return (self.directory / "upper/etc/ssh/ssh_host_ed25519_key.pub").read_text(encoding="ascii")

    def start(self) -> None:
        """Switch it on unless it is on."""
        if self.supervisor is not None:
            return
        (self.directory / PID_FILE).unlink(missing_ok=True)
        scope = ["systemd-run", "--quiet", "--scope", "--collect", "--property=Delegate=yes"]
        command = [
            *(scope if cgroups.systemd_runs_here() else []),
            *network.inside(self._naming.namespace(self.name)),
            *("unshare", "--mount", "--propagation", "slave"),
            *(sys.executable, "-m", "flexi.lab.supervisor", str(self.directory)),
        ]
        processes.start_detached(command, self.log)

    @property
    def log(self) -> Path:
        """The machine's console."""
        return self.directory / "console.log"

    @property
    def supervisor(self) -> processes.Process | None:
        return processes.read(self.directory / PID_FILE)

    @property
    def power(self) -> processes.Process | None:
        """The process whose end is the machine's end."""
        return processes.read(self.directory / POWER_PID_FILE)

    def wait_until_reachable(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Wait until its admin may log in over SSH; FlexiError with the console's last lines after the time-out."""
        deadline = time.monotonic() + timeout_s
        answer = Answer(SSH_FAILED, "", "")
        while time.monotonic() < deadline:
            answer = self.run("true")
            if answer.status == 0:
                return
            time.sleep(0.1)
        console = self.log.read_text(errors="replace").splitlines()[-10:] if self.log.exists() else []
        raise FlexiError(
            f"{self.name} cannot be reached over SSH within {timeout_s:.0f} s: {answer.stderr.strip()}\n"
            + "\n".join(console)
        )

    # -- using it -----------------------------------------------------------------------------------------------

    def run(self, command: str, text: str | None = None, timeout_s: float = 600) -> Answer:
        """Run a shell command as the admin user over SSH, as everybody else would. 255 where SSH itself failed."""
        argv = ["ssh", "-F", str(self._ssh_config), "-o", "BatchMode=yes", "-o", "ConnectTimeout=3", self.name, command]
        done = subprocess.run(
            argv,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def enter(self, *command: str, text: str | None = None) -> str:
        """Run a command inside as root without the machine's help (no SSH, no network); its output.

        FlexiError where the machine is off or the command fails.
        """
        done = subprocess.run(
            ["nsenter", f"--target={self._init()}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", *command],
            input=text or "",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise FlexiError(f"{self.name}: {' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def boot_id(self) -> str:
        """Changes with every boot."""
        return self.enter("cat", "/proc/sys/kernel/random/boot_id").strip()

    def reboot(self, hard: bool = False, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Reboot it and wait until it can be reached again; `hard` cuts the power instead of asking."""
        before = self.boot_id()
        if hard:
            (self.directory / AGAIN_FILE).touch()
            # nspawn itself and not `power`, which so outlives everything inside: the next boot finds nothing running.
            os.kill(self._nspawn(), signal.SIGKILL)
        else:
            self.enter("systemctl", "--no-block", "reboot")
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._booted() in (None, before):
            time.sleep(0.1)
        self.wait_until_reachable(max(1.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """Cut the power; the machine stays off until `start`."""
        # The supervisor takes everything along; who waits for the namespace to be empty has seen it end.
        victims = [process for process in (self.supervisor, self.power) if process is not None]
        if processes.end(victims) or processes.end(network.processes_in(self._naming.namespace(self.name))):
            raise FlexiError(f"{self.name}: its processes do not end")

    def _nspawn(self) -> int:
        return self._child(self.power.pid if self.power else None)

    def _init(self) -> int:
        """Pid of the machine's systemd, seen from here."""
        return self._child(self._nspawn())

    def _child(self, pid: int | None) -> int:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError):
            return int(Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()[0])
        raise FlexiError(f"{self.name} is off: ./flexi lab up switches it on")

    def _booted(self) -> str | None:
        try:
            return self.boot_id()
        except FlexiError:
            return None

    # -- breaking its GPUs --------------------------------------------------------------------------------------

    def gpu(self, index: int) -> str:
        """UUID of the GPU with this index; InputError where the machine has no such GPU."""
        hardware = self.directory / "upper" / HARDWARE_FILE.lstrip("/")
        # A card may have been replaced since the machine was made.
        cards = json.loads(hardware.read_text(encoding="utf-8")) if hardware.exists() else self.spec.gpus
        for card in cards:
            if card["index"] == index:
                return str(card["uuid"])
        raise InputError(f"{self.name} has no GPU {index}; it has {self.spec.gpu_count} GPUs, counted from 0")

    def faults(self) -> dict[str, Any]:
        """What is switched on, as the simulated driver reads it."""
        text = self.enter("sh", "-c", f"cat {FAULTS_FILE} 2>/dev/null || echo '{{}}'")
        faults: dict[str, Any] = json.loads(text)
        return faults

    def lose(self, *indices: int, at_boot: bool = False) -> None:
        """Let GPUs fall off the bus: now, or with the next boot."""
        kind = "lost_at_boot" if at_boot else "lost"
        lost = self.faults().get(kind, [])
        self._set_faults({kind: sorted({*lost, *(self.gpu(index) for index in indices)})})

    def require_reset(self, index: int) -> None:
        """Let a GPU stay in nvidia-smi's list without numbers: it computes nothing before a reset."""
        self._mark("needs_reset", index)

    def corrupt_inforom(self, index: int) -> None:
        """Let nvidia-smi warn of a GPU's infoROM and end with 14; the card computes all the same."""
        self._mark("inforom", index)

    def other_card(self, index: int, name: str, memory_mib: int) -> None:
        """Let a GPU be another model with other memory than the one that the machine was made with."""
        other = {"name": name, "memory_total_mib": memory_mib}
        self._set_faults({"other": {**self.faults().get("other", {}), self.gpu(index): other}})

    def _mark(self, kind: str, index: int) -> None:
        self._set_faults({kind: sorted({*self.faults().get(kind, []), self.gpu(index)})})

    def ecc_errors(self, index: int, count: int) -> None:
        """Let a GPU count uncorrected memory errors."""
        self._add_fault("ecc_uncorrected", self.gpu(index), count)

    def foreign_memory(self, index: int, mib: int) -> None:
        """Let memory of a GPU be taken by somebody whom no list of processes shows."""
        self._add_fault("foreign_mib", self.gpu(index), mib)

    def mismatch(self) -> None:
        """Replace the user-space library under the running driver, as a night's upgrade does."""
        if not self._exists(USERLAND_FILE):
            raise InputError(f"{self.name} has no driver installed, so nothing can mismatch: deploy first")
        version = json.dumps({"version": MISMATCHED_VERSION})
        keep = f"[ -e {USERLAND_FILE}.true ] || cp {USERLAND_FILE} {USERLAND_FILE}.true"
        self.enter("sh", "-c", f"{keep}; cat >{USERLAND_FILE}", text=version)

    def throttle(self, index: int, reason: str = "hw_thermal_slowdown") -> None:
        """Let a GPU slow down; `reason` as nvidia-smi names it (`smi.EVENT_REASONS`), InputError for any other."""
        if reason not in EVENT_REASONS:
            raise InputError(f"a GPU does not throttle because of '{reason}'; it does for {', '.join(EVENT_REASONS)}")
        self._add_fault("throttled", self.gpu(index), EVENT_REASONS[reason])

    def foreign_process(self, index: int, mib: int) -> int:
        """Let somebody log in and compute on a GPU: a real process of the admin's, with its memory; its pid inside.

        It ends with `clear_faults` or the machine.
        """
        unit = f"{FOREIGN_UNIT}{index}"
        idle = "import signal; signal.pause()"
        run = (
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit={unit}",
            f"--uid={ADMIN}",
            "/usr/bin/python3",
            "-c",
            idle,
        )
        self.enter("sh", "-c", f"systemctl stop --quiet {unit} 2>/dev/null || true")
        self.enter(*run)
        pid = int(self.enter("systemctl", "show", "--property=MainPID", "--value", unit))
        self.enter("sh", "-c", f"cat >/dev/shm/flexi-lab/{pid}.json", text=json.dumps({self.gpu(index): mib}))
        return pid

    def xid(self, index: int, code: int = 79) -> None:
        """Let the driver write an Xid message about a GPU into the kernel log, where the journal finds it."""
        self.gpu(index)
        bus = next(str(card["pci_bus_id"]) for card in self.spec.gpus if card["index"] == index)
        text = f"NVRM: Xid (PCI:{bus[4:-2]}): {code}, pid='<unknown>', name=<unknown>{XID_TEXTS.get(code, '')}"
        # `man 5 kmsg` (Documentation/ABI/testing/dev-kmsg): priority, number, microseconds, flags. The journal asks
        # for numbers without gaps. The pipe is opened for both ways: so it never waits for a reader.
        script = (
            "n=$(cat /run/flexi-lab/kmsg 2>/dev/null || echo 0); echo $((n + 1)) >/run/flexi-lab/kmsg; "
            "up=$(cut -d' ' -f1 /proc/uptime | tr -d .)0000; exec 3<>/dev/kmsg; "
            """printf '3,%s,%s,-;%s\\n' "$n" "$up" "$1" >&3"""
        )
        self.enter("sh", "-c", script, "sh", text)

    def unload_uvm(self) -> None:
        """Take the module nvidia_uvm away, so that it cannot be loaded: nvidia-smi is well, CUDA sees no GPU, and an
        Ollama that were started would serve from the CPU without an error. The next boot has it again."""
        if not self._exists("/run/flexi-lab/kernel.json"):
            raise InputError(f"{self.name} has no driver running: deploy first")
        self.enter("sh", "-ec", UNLOAD_UVM)

    def replace_gpu(self, index: int, power_off: bool = True) -> str:
        """Put another card of the same model into the place of a GPU; the new card's UUID.

        The machine is switched off for it and boots with the new card. Without `power_off` the card is another one
        at once, which no real server can do: for tests of what asks for UUIDs. A replacement cannot be taken back.
        """
        old = self.gpu(index)
        new = replacement(old)
        if power_off:
            self.kill()
            hardware = self.directory / "upper" / HARDWARE_FILE.lstrip("/")
            hardware.write_text(hardware.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
            self.start()
            self.wait_until_reachable()
        else:
            here = f"{HARDWARE_FILE} /run/flexi-lab/kernel.json $(find /run/flexi-lab/proc-driver -type f)"
            self.enter("sh", "-c", f"for f in {here}; do [ ! -e $f ] || sed -i s/{old}/{new}/ $f; done")
        return new

    def clear_faults(self) -> None:
        """Everything right again, without a reboot. A GPU that was lost at the last boot needs one all the same, and
        the kernel log keeps its Xid messages until one."""
        self.enter("rm", "-f", FAULTS_FILE)
        self.enter("sh", "-c", f"systemctl stop --quiet '{FOREIGN_UNIT}*'")
        if self._exists("/run/flexi-lab/kernel.json") and not self._exists(UVM_MODULE):
            self.enter("sh", "-ec", LOAD_UVM)
        if self._exists(f"{USERLAND_FILE}.true"):
            self.enter("mv", f"{USERLAND_FILE}.true", USERLAND_FILE)

    def _add_fault(self, kind: str, uuid: str, value: int) -> None:
        self._set_faults({kind: {**self.faults().get(kind, {}), uuid: value}})

    def _set_faults(self, changed: Mapping[str, object]) -> None:
        text = json.dumps({**self.faults(), **changed}, indent=1)
        # Whole or not at all: the driver may read it at any moment.
        self.enter("sh", "-c", f"cat >{FAULTS_FILE}.new && mv {FAULTS_FILE}.new {FAULTS_FILE}", text=text)

    def _exists(self, path: str) -> bool:
        return self.enter("sh", "-c", f"[ -e {path} ] && echo yes || true").strip() == "yes"


def resolver_configuration(
    candidates: Sequence[Path] = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")),
) -> str:
    """The host's resolv.conf, or systemd-resolved's own list where the host asks its loopback: a machine cannot."""
    for path in candidates:
        if not path.exists():
            continue
        servers = [line.split()[1] for line in path.read_text().splitlines() if line.startswith("nameserver ")]
        usable = [server for server in servers if not server.startswith(LOOPBACK_RESOLVERS)]
        if usable:
            return "".join(f"nameserver {server}\n" for server in usable)
    return ""
