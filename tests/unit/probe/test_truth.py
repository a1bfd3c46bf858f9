"""The probe of a host, run by a real sh in a tree of the test's own, and the parser of what it prints."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flexi.health.expectations import TIME_DAEMONS
from flexi.probe import PROBE, HostTruth, parse

GPU_A = "GPU-11111111-2222-3333-4444-555555555555"
GPU_B = "GPU-66666666-7777-8888-9999-000000000000"

TOOLS = (
    "basename",
    "cat",
    "date",
    "df",
    "find",
    "grep",
    "head",
    "od",
    "readlink",
    "sed",
    "sh",
    "tail",
    "timeout",
    "tr",
)
"""What a host of Debian's or Ubuntu's minimal installation has (all in packages of priority required)."""

READS_ONLY = {
    *TOOLS,
    "apt-cache",
    "apt-config",
    "curl",
    "dkms",
    "dpkg-query",
    "journalctl",
    "modinfo",
    "mokutil",
    "nvidia-smi",
    "openssl",
    "systemctl",
}


@pytest.fixture
def bin_(tmp_path: Path) -> Path:
    """A PATH with nothing but the tools of a minimal system."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for tool in TOOLS:
        (directory / tool).symlink_to(shutil.which(tool) or f"/usr/bin/{tool}")
    return directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    for path, text in {
        "etc/os-release": 'ID=ubuntu\nVERSION_ID="22.04"\n',
        "proc/sys/kernel/osrelease": "5.15.0-122-generic\n",
        "proc/sys/kernel/random/boot_id": "b0071d\n",
        "proc/uptime": "1000.50 3000.00\n",
        "sys/module/ext4/refcnt": "2\n",
    }.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return directory


Run = Callable[[], HostTruth]


@pytest.fixture
def run(bin_: Path, root: Path) -> Run:
    def run() -> HostTruth:
        environment = {"PATH": str(bin_), "FLEXI_PROBE_ROOT": str(root)}
        # Without /usr/sbin behind it: what this computer has there is no matter of the test.
        probe = PROBE.replace(":/usr/sbin:/sbin", "")
        done = subprocess.run(["sh", "-s"], input=probe, env=environment, capture_output=True, text=True, timeout=30)
        assert done.stderr == ""
        return parse(done.stdout)

    return run


def command(bin_: Path, name: str, script: str) -> None:
    (bin_ / name).write_text(f"#!/bin/sh\n{script}\n")
    (bin_ / name).chmod(0o755)


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def tree(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        digest.update(f"{path} {path.lstat().st_mode} {path.lstat().st_mtime_ns}".encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def test_a_bare_host_is_an_answer(run: Run) -> None:
    truth = run()
    assert truth.complete
    assert (truth.os, truth.kernel, truth.boot_id, truth.uptime_s) == (
        "ubuntu-22.04",
        "5.15.0-122-generic",
        "b0071d",
        1000.5,
    )
    assert truth.started is not None
    assert truth.ended is not None
    assert 0 <= truth.ended - truth.started < 20
    assert truth.disks
    assert (truth.driver, truth.smi_status, truth.packages, truth.instances) == (None, None, (), ())
    assert not truth.deployed
    assert truth.secure_boot is False


def test_a_host_in_service(run: Run, bin_: Path, root: Path) -> None:
    put(root, "sys/module/nvidia_uvm/refcnt", "0\n")
    put(root, "var/lib/flexi/driver-boot-id", "b0071d\n5.15.0-130-generic\n")
    put(root, "sys/module/nvidia/refcnt", "1\n")
    put(root, "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.309.01  Thu\nGCC 12\n")
    put(root, "proc/4711/comm", "llama-server\n")
    put(root, "proc/4711/cgroup", "0::/system.slice/system-ollama.slice/ollama@a.service\n")
    put(
        root,
        "etc/ollama/a.env",
        f"CUDA_VISIBLE_DEVICES={GPU_A},{GPU_B}\nOLLAMA_HOST=0.0.0.0:11434\nHTTPS_PROXY=x:y@z\n",
    )
    put(root, "etc/flexi/drain.d/a", "new fans\nrelease=9.9.9\n")
    put(root, "opt/ollama/0.24.0/.archive-sha256", "ab\n")
    put(root, "opt/ollama/0.23.4/.archive-sha256", "cd\n")
    (root / "opt/ollama/current").symlink_to("0.24.0")
    (root / "opt/ollama/previous").symlink_to("0.22.0")  # whose directory is gone
    put(root, "run/flexi-agent/status.json", '{"time": 5,\n "instances": []}\n')
    put(root, "run/reboot-required", "*** System restart required ***\n")
    put(root, "run/reboot-required.pkgs", "libc6\nlinux-base\nlibc6\n")
    put(root, "etc/apt/preferences.d/flexi-driver", "# why\nPackage: nvidia-*\nPin: release *\nPin-Priority: -1\n")
    put(root, "etc/apt/preferences.d/old.bak", "Package: *\nPin: release *\nPin-Priority: 9\n")
    put(root, "etc/haproxy/flexi/site.pem", "secret")
    smi = f"0, {GPU_A}, NVIDIA A40, 00000000:17:00.0, 46068, 30001, 41, Enabled, 0"
    command(
        bin_,
        "nvidia-smi",
        f"""case $* in
  *query-compute-apps*) echo '{GPU_A}, 4711, 30000' ;;
  *clocks_event_reasons*) echo '"clocks_event_reasons.active" is not a valid field to query.'; exit 2 ;;
  *clocks_throttle_reasons*) echo '{GPU_A}, 0x0000000000000040' ;;
  *index*) echo '{smi}' ;;
esac""",
    )
    command(
        bin_,
        "curl",
        """case $* in
  *127.0.0.1:11434/api/version) echo '{"version":"0.24.0"}' ;;
  */api/ps) echo '{"models":[{"name":"llama3:8b","size":6,"size_vram":5,"expires_at":"2318-01-01T00:00:00Z"}]}' ;;
esac""",
    )
    command(
        bin_,
        "systemctl",
        """case $* in
  *InvocationID*) echo abcdef ;;
  *) printf 'Id=ollama@a.service\\nLoadState=loaded\\nActiveState=active\\nSubState=running\\nUnitFileState=enabled\\n'
     printf 'NRestarts=2\\nActiveEnterTimestampMonotonic=900000000\\n\\nId=haproxy.service\\nLoadState=not-found\\n' ;;
esac""",
    )
    command(
        bin_,
        "journalctl",
        """case $* in
  *INVOCATION_ID=abcdef*) echo 'level=INFO msg="inference compute" id=GPU-1 library=CUDA compute=8.6' ;;
  *-k*) echo '1795433285.5 host kernel: NVRM: Xid (PCI:0000:17:00): 79, GPU has fallen off the bus.' ;;
esac""",
    )
    command(bin_, "openssl", "echo 'notAfter=Nov 23 11:00:00 2027 GMT'")
    truth = run()
    assert (truth.driver, truth.driver_major, truth.mismatch) == ("535.309.01", 535, False)
    assert truth.modules_loaded == ("nvidia", "nvidia_uvm")
    gpu = truth.gpus[0]
    assert (gpu.uuid, gpu.memory_used, gpu.persistence, gpu.throttle) == (GPU_A, 30001 * 2**20, True, 0x40)
    assert (truth.processes[0].name, truth.processes[0].unit) == ("llama-server", "ollama@a.service")
    instance = truth.instances[0]
    assert instance.uuids == (GPU_A, GPU_B)
    assert (instance.version, instance.libraries) == ("0.24.0", ("CUDA",))
    assert instance.loaded is not None
    assert (instance.loaded[0].size, instance.loaded[0].size_vram) == (6, 5)
    assert truth.drained == {"a": "new fans"}
    assert set(truth.releases) == {"0.24.0", "0.23.4"}
    assert (truth.release_current, truth.release_previous) == ("0.24.0", "0.22.0")
    assert truth.agent == {"time": 5, "instances": []}
    assert truth.reboot_required
    assert truth.reboot_packages == ("libc6", "linux-base")
    assert [(pin.packages, pin.pin, pin.priority) for pin in truth.pins] == [("nvidia-*", "release *", -1)]
    assert truth.certificates[0].file == "/etc/haproxy/flexi/site.pem"
    assert truth.certificates[0].expires == 1826967600.0  # date -u -d '2027-11-23 11:00' +%s
    unit = truth.unit("ollama@a.service")
    assert unit is not None
    assert truth.tried == ("b0071d", "5.15.0-130-generic")
    assert (unit.active, unit.boot, unit.restarts, unit.active_since_s) == ("active", "enabled", 2, 900.0)
    assert truth.unit("haproxy.service") is not None
    assert (truth.xids[0].pci, truth.xids[0].code) == ("0000:17:00", 79)
    assert truth.complete


def test_neither_keys_nor_passwords_are_printed(bin_: Path, root: Path) -> None:
    put(root, "etc/ollama/a.env", "HTTPS_PROXY=http://user:hunter2@proxy:3128\nCUDA_VISIBLE_DEVICES=\n")
    put(root, "etc/haproxy/flexi/site.pem", "-----BEGIN PRIVATE KEY-----\nhunter3\n")
    command(bin_, "dpkg-query", "case $* in *oldlibs*) ;; *Status-Status*Package*) echo 'installed nvidia-x' ;; esac")
    command(bin_, "apt-cache", "echo '        500 https://user:hunter4@mirror.example.org/ubuntu jammy/main Packages'")
    environment = {"PATH": str(bin_), "FLEXI_PROBE_ROOT": str(root)}
    done = subprocess.run(["sh", "-s"], input=PROBE, env=environment, capture_output=True, text=True, timeout=30)
    assert "mirror.example.org" in done.stdout
    assert "hunter" not in done.stdout


def test_a_lost_card_leaves_the_others(run: Run, bin_: Path, root: Path) -> None:
    put(root, "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.309.01  Thu\n")
    words = (
        "Unable to determine the device handle for GPU0000:17:00.0: GPU is lost.  Reboot the system to recover this GPU"
    )
    card = f"1, {GPU_B}, NVIDIA A40, 00000000:18:00.0, 46068, 1, 41, Enabled, 0"
    command(
        bin_,
        "nvidia-smi",
        f"""echo x >>{root}/asked
case $* in
  *compute-apps*'-i 1') echo '{GPU_B}, 7, 9' ;;
  *reasons*'-i 1') echo '{GPU_B}, 0x8' ;;
  *index*'-i 1') echo '{card}' ;;
  *) echo '{words}'; exit 15 ;;
esac""",
    )
    truth = run()
    assert [(gpu.index, gpu.throttle) for gpu in truth.gpus] == [(1, 8)]
    assert [process.pid for process in truth.processes] == [7]
    assert len((root / "asked").read_text().split()) == 1 + 16 + 2  # all, each alone, and of the one that answers more
    assert truth.smi_status == 15
    assert truth.smi_words == (" ".join(words.split()),)


def test_a_driver_that_hangs_is_not_asked_again(run: Run, bin_: Path, root: Path) -> None:
    put(root, "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.309.01  Thu\n")
    real = os.readlink(bin_ / "timeout")
    (bin_ / "timeout").unlink()
    command(bin_, "timeout", f'shift 3; exec {real} -k 1 0.2 "$@"')
    (bin_ / "sleep").symlink_to(shutil.which("sleep") or "/usr/bin/sleep")
    command(bin_, "nvidia-smi", f"echo asked >>{root}/asked; exec sleep 60")
    truth = run()
    assert (truth.hung_in, truth.gpus) == ("gpus", ())
    assert (root / "asked").read_text() == "asked\n"


def test_an_answer_that_was_cut_off_counts_as_far_as_it_goes() -> None:
    truth = parse(
        "probe=1\nkernel=5.15.0-122-generic\nread=system\ndriver=NVRM version: Kernel Module  535.309.01  x\nloa"
    )
    assert (truth.hung_in, truth.kernel, truth.driver) == ("kernel", "5.15.0-122-generic", "535.309.01")
    with pytest.raises(ValueError, match="probe"):
        parse("sudo: a password is required\n")


def test_nothing_is_changed(run: Run, root: Path, bin_: Path) -> None:
    put(root, "etc/ollama/a.env", "CUDA_VISIBLE_DEVICES=x\nOLLAMA_HOST=127.0.0.1:1\n")
    before = tree(root)
    run()
    assert tree(root) == before


def test_the_probe_calls_only_what_reads() -> None:
    code = "\n".join(line.partition(" #")[0] for line in PROBE.splitlines() if not line.startswith("#"))
    targets = set(re.findall(r">{1,2}\s*([^\s);|]+)", re.sub(r"'[^']*'|\"[^\"]*\"", "", code)))
    assert targets <= {"/dev/null", "&1"}, "it writes somewhere"
    asked = set(re.findall(r"\bbounded \d+ ([a-z-]+)", code))
    assert len(asked) >= 10
    assert asked <= READS_ONLY
    verbs = set(re.findall(r"\b(?:systemctl|apt-cache \$uncached|apt-config|dkms|mokutil) ([a-z-]+)", code))
    assert verbs <= {"show", "policy", "dump", "status", "--sb-state", "--list-enrolled"}
    assert not re.search(r"nvidia-smi[^|;\n]* (-pm|-r|--gpu-reset|-e|-c|-pl)\b", code)


def test_apt_keeps_its_caches_as_they_are() -> None:
    """apt-cache, run by root, writes them anew where they are older than the lists (apt.conf(5), Dir::Cache)."""
    for call in re.findall(r"apt-cache .*", PROBE):
        assert "$uncached" in call or call.startswith("apt-cache $uncached")
    assert "Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=" in PROBE


# What `apt-cache policy` and `show` print on a jammy host with flexi's driver but without its pins (names and versions
# from packages.ubuntu.com/jammy).
POLICY = """\
nvidia-utils-535-server:
  Installed: 535.309.01-0ubuntu0.22.04.1
  Candidate: 535.309.01-0ubuntu0.22.04.2
  Version table:
     535.309.01-0ubuntu0.22.04.2 500
        500 http://archive.ubuntu.com/ubuntu jammy-updates/restricted amd64 Packages
        500 http://security.ubuntu.com/ubuntu jammy-security/restricted amd64 Packages
 *** 535.309.01-0ubuntu0.22.04.1 100
        100 /var/lib/dpkg/status
libnvidia-compute-535-server:
  Installed: 535.129.03-0ubuntu1
  Candidate: 580.65.06-0ubuntu1
  Version table:
     580.65.06-0ubuntu1 600
        600 https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2204/x86_64  Packages
 *** 535.129.03-0ubuntu1 600
        600 https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2204/x86_64  Packages
        100 /var/lib/dpkg/status
nvidia-firmware-535:
  Installed: 1
  Candidate: (none)
  Version table:
 *** 1 -1
        100 /var/lib/dpkg/status
"""
SOURCES = """\
Package files:
 100 /var/lib/dpkg/status
     release a=now
 600 https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2204/x86_64  Packages
     release o=NVIDIA,l=NVIDIA CUDA,c=
     origin developer.download.nvidia.com
 500 http://security.ubuntu.com/ubuntu jammy-security/restricted amd64 Packages
     release v=22.04,o=Ubuntu,a=jammy-security,n=jammy,l=Ubuntu,c=restricted,b=amd64
     origin security.ubuntu.com
 500 http://archive.ubuntu.com/ubuntu jammy-updates/restricted amd64 Packages
     release v=22.04,o=Ubuntu,a=jammy-updates,n=jammy,l=Ubuntu,c=restricted,b=amd64
     origin archive.ubuntu.com
"""
SHOWN = """\
Package: nvidia-utils-535-server
Version: 535.309.01-0ubuntu0.22.04.2
Section: restricted/oldlibs
Description-en: Transitional package for nvidia-utils-580-server

"""


def block(name: str, text: str) -> str:
    return "".join(f"{name}={line}\n" for line in text.splitlines())


def test_candidates_with_their_archives() -> None:
    text = "probe=1\n" + block("policy", POLICY) + block("source", SOURCES) + block("candidate", SHOWN)
    utils, compute, firmware = parse(text).candidates
    assert (utils.installed, utils.version) == ("535.309.01-0ubuntu0.22.04.1", "535.309.01-0ubuntu0.22.04.2")
    assert (utils.label, utils.installed_labels, utils.transitional, utils.changes) == ("Ubuntu", (), True, True)
    assert (compute.label, compute.installed_labels, compute.transitional) == ("NVIDIA CUDA", ("NVIDIA CUDA",), False)
    assert (firmware.version, firmware.changes) == (None, False)


def test_the_probe_looks_at_every_time_daemon() -> None:
    assert [unit for unit in TIME_DAEMONS if f" {unit} " not in PROBE.replace("\n", " ")] == []


def test_packages_kernels_and_versions() -> None:
    lines = [
        "hold|installed|linux-image-5.15.0-91-generic|5.15.0-91.101|kernel|Signed kernel image generic",
        "install|installed|linux-image-5.15.0-122-generic|5.15.0-122.132|kernel|Signed kernel image generic",
        "hold|installed|linux-image-generic|5.15.0.122.122|kernel|Generic Linux kernel image",
        "install|installed|linux-image-5.15.0-122-generic-dbg|5.15.0-122.132|kernel|boots nothing",
        "hold|installed|linux-modules-nvidia-535-server-5.15.0-91-generic|5.15.0-91.101|kernel|modules | with a bar",
        "hold|installed|libnvidia-compute-535-server|535.309.01-0ubuntu0.22.04.2|oldlibs|(transitional package)",
        "install|unpacked|libnvidia-compute-580-server|580.65.06-0ubuntu0.22.04.1|libs|NVIDIA libcompute package",
    ]
    text = "probe=1\nkernel=5.15.0-91-generic\n" + "".join(f"package={line}\n" for line in lines)
    truth = parse(text)
    assert parse(text.replace("kernel=5.15.0-91-generic", "kernel=6.12-own")).next_kernel == "6.12-own"
    assert truth.kernels == ("5.15.0-91-generic", "5.15.0-122-generic")
    assert truth.next_kernel == "5.15.0-122-generic"
    assert truth.has_modules("5.15.0-91-generic")
    assert not truth.has_modules("5.15.0-122-generic")
    assert truth.library == "580.65.06"
    held = truth.package("linux-image-generic")
    assert held is not None
    assert held.held


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("", False),
        ("efi=yes\nsecure_boot=SecureBoot enabled", True),
        ("efi=yes\nsecure_boot=SecureBoot disabled", False),
        ("efi=yes\nsecure_boot=SecureBoot byte   1", True),
        ("efi=yes\nsecure_boot=SecureBoot byte   0", False),
        ("efi=yes\nsecure_boot=", None),
    ],
)
def test_secure_boot(lines: str, wanted: bool | None) -> None:
    assert parse(f"probe=1\n{lines}").secure_boot is wanted


def test_secure_boot_is_read_from_the_firmware_without_mokutil(run: Run, root: Path) -> None:
    path = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    put(root, path, "")
    (root / path).write_bytes(b"\x06\x00\x00\x00\x01")  # attributes, then the value (Linux: Documentation/filesystems)
    assert run().secure_boot is True


def test_the_open_modules_have_a_version_too() -> None:
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22-I3)"
    assert parse(f"probe=1\ndriver={line}").driver == "580.65.06"


def test_a_file_in_a_store_that_is_not_ollamas_is_seen(run: Run, root: Path, bin_: Path) -> None:
    # An admin's `sudo cp` of models. Without the stub: no computer of developers has the user ollama.
    for group in ("a", "b"):
        (root / f"var/lib/ollama/{group}/models").mkdir(parents=True)
    (bin_ / "find").unlink()
    arguments = f"{root}/var/lib/ollama/b/models ! -user ollama -print -quit"
    (bin_ / "find").write_text(f'#!/bin/sh\n[ "$*" = "{arguments}" ] && echo "$1/x"\n')
    (bin_ / "find").chmod(0o755)
    truth = run()
    assert truth.foreign_files == ("/var/lib/ollama/b/models/x",)
    assert truth.disks, "what follows is still read"


def test_a_full_tmp_is_seen(run: Run, root: Path, bin_: Path) -> None:
    # A tmpfs of its own on many servers, and where every deploy puts its files first.
    (root / "tmp").mkdir()
    (bin_ / "df").unlink()
    script = f"#!/bin/sh\necho header\nfor last; do :; done\n[ $last != {root}/tmp ] || echo tmpfs 64 64 0 100% /tmp\n"
    (bin_ / "df").write_text(script)
    (bin_ / "df").chmod(0o755)
    assert [(disk.mount, disk.used_percent) for disk in run().disks] == [("/tmp", 100)]


def test_modules_on_disk(run: Run, root: Path, bin_: Path) -> None:
    put(root, "lib/modules/5.15.0-122-generic/updates/dkms/nvidia.ko", "")
    put(root, "lib/modules/5.15.0-122-generic/updates/dkms/nvidia-uvm.ko", "")
    put(root, "lib/modules/6.1.0-25-amd64/updates/dkms/nvidia-current.ko.xz", "")
    command(bin_, "modinfo", 'case $2 in version) echo 535.309.01 ;; signer) echo "DKMS module signing key" ;; esac')
    found = {(module.kernel, module.version, module.signer, module.by_dkms) for module in run().modules}
    key = "DKMS module signing key"
    assert found == {("5.15.0-122-generic", "535.309.01", key, True), ("6.1.0-25-amd64", "535.309.01", key, True)}


def test_blacklist_as_apt_reads_it() -> None:
    lines = 'Unattended-Upgrade::Package-Blacklist "";\nUnattended-Upgrade::Package-Blacklist:: "nvidia-";\n'
    assert parse("probe=1\n" + block("blacklist", lines)).blacklist == ("nvidia-",)


SMI_FIELDS = (
    "smi_fields=index,uuid,name,pci.bus_id,memory.total,memory.used,temperature.gpu,persistence_mode,"
    "ecc.errors.uncorrected.volatile.total\n"
)


@pytest.mark.parametrize("words", ["GPU is lost", "GPU requires reset", "Unknown Error"])
def test_a_broken_card_may_have_a_line_of_its_own(words: str) -> None:
    """So nvidia-smi of some drivers shows it: words in the place of numbers."""
    broken = f"1, {GPU_B}, NVIDIA A40, 00000000:18:00.0, 46068, [{words}], [{words}], Enabled, [N/A]"
    truth = parse(f"probe=1\n{SMI_FIELDS}smi_status=0\nsmi={broken}")
    assert [(gpu.pci, gpu.fault) for gpu in truth.gpus] == [("00000000:18:00.0", words)]
    assert truth.smi_words == ()


def test_a_warning_is_no_complaint_of_the_driver(run: Run, bin_: Path, root: Path) -> None:
    """Every card has its line, and is asked for once; the warning may be on the error output."""
    put(root, "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Thu\n")
    card = f"1, {GPU_B}, NVIDIA A40, 00000000:18:00.0, 46068, 1, 41, Enabled, 0"
    warning = "WARNING: infoROM is corrupted at gpu 0000:18:00.0"
    command(
        bin_,
        "nvidia-smi",
        f"""echo "$*" >>{root}/asked
case $* in
  *gpu_recovery_action*) echo '{GPU_B}, Disabled, Reset' ;;
  *index*) echo '{card}' ;;
esac
echo '{warning}' >&2; exit 14""",
    )
    truth = run()
    assert (truth.smi_words, truth.smi_warnings, truth.smi_status) == ((), (warning,), 14)
    assert [(gpu.uuid, gpu.fault) for gpu in truth.gpus] == [(GPU_B, "the driver asks for recovery: Reset")]
    assert " -i " not in (root / "asked").read_text()


def test_a_certificates_end_is_in_universal_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        end = parse("probe=1\ncertificate=/x.pem|notAfter=Nov 23 11:00:00 2027 GMT").certificates[0].expires
    finally:
        monkeypatch.undo()
        time.tzset()
    assert end == 1826967600.0


@pytest.mark.parametrize(
    ("line", "built"),
    [
        ("nvidia-current/535.309.01, 6.1.0-25-amd64, x86_64: installed", True),
        ("nvidia, 535.309.01, 6.1.0-25-amd64, x86_64: installed", True),
        ("nvidia-current/535.309.01, 6.1.0-25-amd64, x86_64: built", False),
        ("nvidia-current/535.309.01, 6.1.0-9-amd64, x86_64: installed", False),
        ("nvidia-current/535.309.01: added", False),
        ("zfs/2.1.11, 6.1.0-25-amd64, x86_64: installed", False),
    ],
)
def test_modules_by_the_books_of_dkms(line: str, built: bool) -> None:
    """`dkms status` of dkms 3.0 (Debian 12) and of 2.8 (Ubuntu 22.04)."""
    assert parse(f"probe=1\ndkms={line}").has_modules("6.1.0-25-amd64") is built


def test_of_a_driver_that_fails_as_a_whole_no_card_is_asked(run: Run, bin_: Path, root: Path) -> None:
    put(root, "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.309.01  Thu\n")
    words = "Failed to initialize NVML: Driver/library version mismatch"
    command(bin_, "nvidia-smi", f"echo x >>{root}/asked; echo '{words}'; echo 'NVML library version: 580.65'; exit 18")
    truth = run()
    assert truth.mismatch
    assert truth.library == "580.65"
    assert (root / "asked").read_text() == "x\n"
