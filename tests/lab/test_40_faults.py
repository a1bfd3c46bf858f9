"""Faults of the hardware and the driver: out of the gateway, red in verify with the reason, and well again after."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from lab_site import Site, flexi, until
from models import model_of

from flexi.lab.machine import LOAD_UVM


@pytest.fixture
def healthy(site: Site) -> Iterator[Site]:
    yield site
    for host in ("server-a", "server-b"):
        flexi("lab", "fault", "--name", site.lab.name, host, "clear")
    until(lambda: flexi("status", str(site.file), "--quick").status == 0, 240, "all models are ready after the fault")


def fault(site: Site, host: str, *what: str) -> None:
    done = flexi("lab", "fault", "--name", site.lab.name, host, *what)
    assert done.status == 0, done.text


@pytest.mark.parametrize(
    ("host", "what", "words"),
    [
        ("server-b", ["mismatch"], "version mismatch"),
        ("server-a", ["lost", "--gpu", "3"], "not visible"),
        ("server-a", ["reset", "--gpu", "1"], "not usable: GPU requires reset"),
    ],
    ids=["driver mismatch", "GPU lost", "GPU requires reset"],
)
def test_a_fault_takes_the_instance_out_and_is_named(healthy: Site, host: str, what: list[str], words: str) -> None:
    site = healthy
    model = model_of(site, host)
    assert site.answers(model)
    fault(site, host, *what)
    request = {"model": model, "prompt": "x", "stream": False, "options": {"num_predict": 1}}
    until(lambda: site.curl("/api/generate", request)[0] == 503, 30, "the gateway takes it out")
    assert "not ready" in json.loads(site.curl("/api/generate", request)[1])["error"]
    named = [failure for failure in site.failures() if failure.startswith(f"{host}:")]
    assert any(words in failure for failure in named), named
    other = model_of(site, "server-a" if host == "server-b" else "server-b")
    assert site.answers(other), "the other server must go on"
    shown = flexi("status", str(site.file))
    assert shown.status == 1
    assert words in " ".join(shown.stdout.split())
    doctor = site.doctor()
    ours = [finding for finding in doctor if finding["host"] == host]
    assert any(words.split(": ")[-1] in finding["what"] or "missing" in finding["what"] for finding in ours), doctor


def test_an_instance_does_not_start_on_a_gpu_that_requires_a_reset(healthy: Site) -> None:
    """The card is listed and nvidia-smi ends with 0: what starts now would compute on the CPU."""
    site = healthy
    instance = next(i for i in site.plan.instances if i.host == "server-b")
    fault(site, "server-b", "reset", "--gpu", "1")
    assert site.ssh("server-b", "nvidia-smi --query-gpu=memory.used --format=csv").status == 0
    site.ssh("server-b", f"sudo systemctl restart {instance.unit}")
    log = site.ssh("server-b", f"sudo journalctl -u {instance.unit} -o cat -n 20 --no-pager").stdout
    assert "GPU 1" in log
    assert "GPU requires reset" in log
    assert site.ssh("server-b", f"curl -sS -m 2 http://127.0.0.1:{instance.port}/").status != 0
    port = site.plan.host("server-b").agent
    assert port is not None
    asked = f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port.check_port}; echo {instance.group} >&3; head -n 1 <&3'"
    until(lambda: "down" in site.ssh("server-b", asked).stdout, 30, "the agent answers the gateway's check with down")


def test_a_warning_of_nvidia_smi_stops_nothing(healthy: Site) -> None:
    site = healthy
    fault(site, "server-b", "inforom", "--gpu", "0")
    assert site.ssh("server-b", "nvidia-smi -L").status == 14
    assert site.failures() == []
    warning = next(finding for finding in site.doctor() if finding["host"] == "server-b")
    assert (warning["id"], warning["severity"]) == ("nvidia-smi-warns", "warning")
    until(lambda: "infoROM" in flexi("status", str(site.file)).stdout, 30, "the status says it")
    done = site.pyinfra("-y", "--limit", "server-b")
    assert done.status == 0, done.text[-3000:]
    assert site.answers(model_of(site, "server-b"))


def test_another_card_than_the_site_files_is_named_and_the_deploy_refuses(healthy: Site) -> None:
    site = healthy
    fault(site, "server-b", "another-card", "--gpu", "1")
    named = [failure for failure in site.failures() if failure.startswith("server-b:")]
    assert any("Tesla T4" in failure and "A40" in failure for failure in named), named
    found = [finding for finding in site.doctor() if finding["id"] == "gpu-other"]
    assert found, "the doctor names it"
    assert "Tesla T4" in found[0]["what"]
    until(lambda: "Tesla T4" in flexi("status", str(site.file)).stdout, 30, "the status names it")
    done = site.pyinfra("-y", "--limit", "server-b")
    assert done.status != 0
    said = " ".join(done.text.split())
    assert "Tesla T4 with 15360 MiB, the site file says A40 with 46068 MiB" in said
    assert "Nothing was changed here" in said


def test_an_instance_does_not_start_without_its_gpus(healthy: Site) -> None:
    """The gate before the start: no GPU, no CPU fall-back, and a start as soon as the GPU is back."""
    site = healthy
    instance = next(i for i in site.plan.instances if i.host == "server-b")
    fault(site, "server-b", "lost", "--gpu", "1")
    site.ssh("server-b", f"sudo systemctl restart {instance.unit}")
    log = site.ssh("server-b", f"sudo journalctl -u {instance.unit} -o cat -n 20 --no-pager").stdout
    assert "not visible" in log
    assert site.ssh("server-b", f"curl -sS -m 2 http://127.0.0.1:{instance.port}/").status != 0
    fault(site, "server-b", "clear")
    until(lambda: site.answers(model_of(site, "server-b")), 120, "it starts by itself")


def test_an_instance_does_not_start_without_uvm(healthy: Site) -> None:
    """nvidia-smi is well, and yet CUDA would find no GPU: the gate and status say so, until the module is loaded."""
    site = healthy
    instance = next(i for i in site.plan.instances if i.host == "server-b")
    fault(site, "server-b", "uvm")
    site.ssh("server-b", f"sudo systemctl restart {instance.unit}")
    log = site.ssh("server-b", f"sudo journalctl -u {instance.unit} -o cat -n 20 --no-pager").stdout
    assert "the kernel module nvidia-uvm is not loaded" in log
    assert site.ssh("server-b", f"curl -sS -m 2 http://127.0.0.1:{instance.port}/").status != 0
    told = lambda: flexi("status", str(site.file), "--json")  # noqa: E731
    until(lambda: "nvidia-uvm is not loaded" in told().stdout, 30, "status says why")
    assert told().status == 1
    # A node that a script made anew without the module is no way past.
    site.ssh("server-b", "sudo mknod -m 666 /dev/nvidia-uvm c 10 229")
    site.ssh("server-b", f"sudo systemctl restart {instance.unit}")
    assert site.ssh("server-b", f"curl -sS -m 2 http://127.0.0.1:{instance.port}/").status != 0
    fault(site, "server-b", "clear")
    until(lambda: site.answers(model_of(site, "server-b")), 120, "it starts by itself")


LOADER = "/usr/local/bin/nvidia-modprobe"


@pytest.fixture
def loadable(healthy: Site) -> Iterator[Site]:
    """server-b with an nvidia-modprobe that can load the module: in the kernel, so outside of the caller's sandbox."""
    healthy.ssh("server-b", "sudo tee /run/flexi-lab/load >/dev/null", stdin=LOAD_UVM)
    text = '#!/bin/sh\n[ "$1 $2" = "-u -c=0" ] && exec systemd-run --quiet --wait sh -e /run/flexi-lab/load\n'
    healthy.ssh("server-b", f"sudo tee {LOADER} >/dev/null; sudo chmod 755 {LOADER}", stdin=text)
    yield healthy
    healthy.ssh("server-b", f"sudo rm -f {LOADER}")


def test_the_module_is_loaded_before_an_instance_starts(loadable: Site) -> None:
    """And not by the instance itself: its device cgroup has looked the name up by then, and it would run on the CPU."""
    site = loadable
    instance = next(i for i in site.plan.instances if i.host == "server-b")
    fault(site, "server-b", "uvm")
    done = site.ssh("server-b", f"sudo systemctl restart {instance.unit}")
    assert done.status == 0, done.text
    nodes = site.ssh("server-b", "systemctl show -p Result,ExecMainStatus flexi-gpu-nodes").stdout.split()
    assert sorted(nodes) == ["ExecMainStatus=0", "Result=success"]
    until(lambda: site.answers(model_of(site, "server-b")), 120, "it is ready")
    run = f"_SYSTEMD_INVOCATION_ID=$(systemctl show -p InvocationID --value {instance.unit})"
    log = site.ssh("server-b", f"sudo journalctl {run} -o cat --no-pager").stdout
    assert "library=CUDA" in log
    assert "library=cpu" not in log


@pytest.fixture
def forgetful(healthy: Site) -> Iterator[Site]:
    """The kernel log keeps its messages until a reboot."""
    yield healthy
    done = flexi("lab", "reboot", "--name", healthy.lab.name, "server-b")
    assert done.status == 0, done.text


def test_faults_show_where_an_admin_looks(forgetful: Site) -> None:
    """In nvidia-smi, the kernel log and sysfs, which know nothing of a simulation."""
    site, card = forgetful, "-i 1 --format=csv,noheader"
    fault(site, "server-b", "xid", "--gpu", "1", "--code", "79")
    fault(site, "server-b", "throttle", "--gpu", "1")
    fault(site, "server-b", "process", "--gpu", "1", "--mib", "900")
    log = "sudo journalctl -k -b -o cat --no-pager -g 'NVRM: Xid'"
    until(lambda: "(PCI:0000:02:00): 79" in site.ssh("server-b", log).stdout, 10, "the journal has the kernel's record")
    reasons = site.ssh("server-b", f"nvidia-smi --query-gpu=clocks_event_reasons.active {card}").stdout
    assert int(reasons, 16) & 0x40  # nvml.h: slowed down by the thermal protection
    processes = site.ssh("server-b", f"nvidia-smi --query-compute-apps=process_name,used_memory {card}").stdout
    assert "python3, 900 MiB" in processes
    fault(site, "server-b", "uvm")
    assert "nvidia_uvm" not in site.ssh("server-b", "ls /sys/module").stdout.split()
    assert site.ssh("server-b", "nvidia-smi -L").status == 0
    fault(site, "server-b", "clear")
    assert "nvidia_uvm" in site.ssh("server-b", "ls /sys/module").stdout.split()
    assert "900" not in site.ssh("server-b", f"nvidia-smi --query-compute-apps=process_name,used_memory {card}").stdout
