"""Deploys that go wrong: nothing is half-done, others go on, and the words say what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab_site import Site, changed, flexi, run, until

from flexi.paths import ROOT


def test_a_wrong_checksum_leaves_the_old_version_running(site: Site) -> None:
    version = next(h.ollama.version for h in site.plan.hosts if h.ollama)
    wrong = changed(site, f"version: {version}", f"version: {version}\n  sha256: '{'0' * 64}'", "wrong-sum")
    done = site.pyinfra("-y", site_file=wrong)
    assert done.status == 1
    assert "nothing was switched" in done.text
    assert "Traceback" not in done.text
    assert site.failures() == []


def deploy_and_kill(site_file: Path, moment: str) -> None:
    """Deploy, and end it by SIGKILL when it says that it has come to `moment`."""
    pyinfra = str(Path(sys.executable).with_name("pyinfra"))
    argv = [pyinfra, "-y", str(site_file.with_suffix(".py")), "deploy.py"]
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as deploy:
        assert deploy.stdout is not None
        for line in deploy.stdout:
            if moment in line:
                os.killpg(deploy.pid, signal.SIGKILL)
                break
        else:
            pytest.fail(f"the deploy never said {moment!r}")


def test_what_a_killed_deploy_wrote_is_put_into_use_by_the_next(site: Site) -> None:
    """The new environment is on the disk, the run died before the restart: the next one must not take it for done."""
    shorter = changed(site, "parallel: 1", "parallel: 1\n        context: 4096", "shorter")
    running = "sudo cat /proc/$(systemctl show -p MainPID --value ollama@a.service)/environ | tr '\\0' '\\n'"
    try:
        deploy_and_kill(shorter, "Restart ollama@a.service with what is new")
        assert flexi("deploy", str(shorter), timeout_s=900).status == 0
        assert "OLLAMA_CONTEXT_LENGTH=4096" in site.ssh("server-a", running).stdout
    finally:
        back = flexi("deploy", str(site.file), timeout_s=900)
    assert back.status == 0, back.text[-3000:]
    assert "OLLAMA_CONTEXT_LENGTH=8192" in site.ssh("server-a", running).stdout


def test_firewall_rules_that_lock_us_out_go_again(site: Site) -> None:
    locked = changed(site, "user: admin", "user: admin\n  allow_from: [192.0.2.0/24]", "locked")
    done = flexi("deploy", str(locked), "--no-wait", "--limit", "gateway")
    assert done.status == 1
    assert "lock this machine out" in done.text
    # A shared connection of earlier checks would survive any rule.
    fresh = [
        "ssh",
        "-F",
        str(site.lab.ssh_config),
        "-o",
        "ControlPath=none",
        "-o",
        "ConnectTimeout=3",
        "gateway",
        "true",
    ]
    until(lambda: run(fresh).status == 0, 120, "the old rules are back")
    assert site.failures() == []


@pytest.mark.parametrize("moment", ["Unpack Ollama", "Write the instances' unit", "Write the agent's configuration"])
def test_a_deploy_killed_at_any_point_converges(site: Site, moment: str) -> None:
    """server-b is undone, the deploy is killed when it reaches `moment`, and the next one repairs everything."""
    site.ssh(
        "server-b",
        "sudo systemctl stop flexi-agent 'ollama@*'; "
        "sudo rm -rf /opt/ollama /etc/systemd/system/ollama@.service /etc/flexi/agent.json /opt/flexi",
    )
    deploy_and_kill(site.file, moment)
    again = flexi("deploy", str(site.file), timeout_s=900)
    assert again.status == 0, again.text[-4000:]
    third = site.pyinfra("-y", "--json")
    assert json.loads(third.stdout)["results"]["totals"]["success"] == 0
    assert site.failures() == []


def test_a_wrong_ssh_key_is_said_without_a_traceback(site: Site, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    config = tmp_path / "ssh_config"
    text = site.lab.ssh_config.read_text()
    lines = [
        f"{line.split('IdentityFile')[0]}IdentityFile {tmp_path}/key" if "IdentityFile" in line else line
        for line in text.splitlines()
    ]
    config.write_text("\n".join(lines) + "\n")
    old = next(line for line in site.file.read_text().splitlines() if "ssh_config" in line)
    wrong = changed(site, old, old.split("config:")[0] + f"config: {config}" + ("}" if "}" in old else ""), "wrong-key")
    done = flexi("deploy", str(wrong), "--no-wait")
    assert done.status == 1
    assert "Traceback" not in done.text
    assert "uthentication" in done.text
    report = json.loads(flexi("verify", str(wrong), "--json").stdout)
    assert report["passed"] == 0
    assert any("Permission denied" in check["reason"] for check in report["checks"])


def test_a_host_that_does_not_answer_is_named_and_the_others_go_on(site: Site) -> None:
    assert flexi("lab", "kill", "--name", site.lab.name, "server-b").status == 0
    try:
        site.ssh("server-a", "sudo rm /etc/sysctl.d/60-flexi.conf")
        done = flexi("deploy", str(site.file), "--no-wait", timeout_s=300)
        assert done.status == 1
        assert "server-b" in done.text.strip().splitlines()[-1]
        assert site.ssh("server-a", "test -f /etc/sysctl.d/60-flexi.conf").status == 0
        checks = site.verify()["checks"]
        gone = {check["reason"] for check in checks if check["host"] == "server-b"}
        assert all("does not answer over SSH" in reason or "cannot reach" in reason for reason in gone)
        kept = [check["reason"] for check in checks if check["host"] == "server-a" and check["outcome"] == "failed"]
        assert kept == []
    finally:
        up = flexi("lab", "up", "--name", site.lab.name, timeout_s=600)
    assert up.status == 0, up.text[-3000:]
    until(lambda: flexi("status", str(site.file), "--quick").status == 0, 120, "everything is ready again")
