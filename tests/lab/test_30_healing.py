"""What breaks comes back without anyone acting. The times are printed: run pytest with -s or -rP to read them."""

from __future__ import annotations

import time

from lab_site import Figure, Site, flexi, until
from models import model_of


def test_a_killed_instance_comes_back(site: Site, figure: Figure) -> None:
    model = model_of(site, "server-b")
    instance = next(i for i in site.plan.instances if i.host == "server-b")
    before = site.ssh("server-b", f"systemctl show -p MainPID --value {instance.unit}").stdout.strip()
    start = time.monotonic()
    site.ssh("server-b", f"sudo systemctl kill -s KILL {instance.unit}")
    until(
        lambda: (
            site.ssh("server-b", f"systemctl show -p MainPID --value {instance.unit}").stdout.strip()
            not in (before, "0")
        ),
        30,
        "systemd starts it again",
    )
    until(lambda: site.answers(model), 120, f"{model} answers through the gateway")
    figure(f"healed: {instance.unit} killed: {model} answers again after {time.monotonic() - start:.1f} s")


def test_a_rebooted_server_comes_back(site: Site, figure: Figure) -> None:
    model = model_of(site, "server-b")
    boot = site.ssh("server-b", "cat /proc/sys/kernel/random/boot_id").stdout
    start = time.monotonic()
    site.ssh("server-b", "sudo systemctl reboot")

    def rebooted() -> bool:
        answer = site.ssh("server-b", "cat /proc/sys/kernel/random/boot_id")
        return answer.status == 0 and answer.stdout != boot

    until(rebooted, 120, "server-b boots again")
    until(lambda: site.answers(model), 180, f"{model} answers through the gateway")
    figure(f"healed: server-b rebooted: {model} answers again after {time.monotonic() - start:.1f} s")


def test_all_is_well_again(site: Site) -> None:
    until(lambda: flexi("status", str(site.file), "--quick").status == 0, 180, "every model is ready")
    assert site.failures() == []
