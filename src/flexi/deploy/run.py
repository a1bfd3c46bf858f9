"""`flexi deploy`: a thin wrapper that prints and runs pyinfra, then waits for the models."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from flexi.errors import EXIT_FAILED, EXIT_OK, FlexiError, InputError
from flexi.health import verify
from flexi.paths import ROOT
from flexi.plan import build_plan
from flexi.plan.model.site import Plan
from flexi.site import load_site, site_argument
from flexi.ssh import remote
from flexi.status import instances

READY_TIMEOUT_S = 6 * 3600
"""300 GB of weights over a gigabit line take most of an hour; a slow mirror several."""


def inventory_file(site_file: Path) -> Path:
    """Return the two-line pyinfra inventory beside a site file; InputError where it is missing."""
    path = site_file.with_suffix(".py")
    if not path.exists():
        raise InputError(f"{path} is missing: copy inventory/example.py to it (two lines, the same for every site)")
    return path


@dataclass(frozen=True)
class Wish:
    """Options of a deploy beside the site file. Host names are those of the site."""

    limit: tuple[str, ...] = ()
    """Only these hosts; empty means all."""
    allow_reboot: bool = False
    update: bool = False
    """Bring driver and kernel to the newest of their branch, although they are on hold."""
    accept_gpus: tuple[str, ...] = ()
    """Hosts whose cards may be others than before."""
    purge: bool = False
    """Remove the models and the chats too of a host that leaves."""
    new_key: bool = False
    """Moodle makes itself another key."""
    chat: bool = False
    """Roll back the chat's release, not Ollama's."""
    leave_chats: str = ""
    """Location of the chats that the page may begin without (flexi.local_files.chat_place)."""

    @property
    def data(self) -> list[str]:
        """The options as pyinfra's data, in the form that an admin types after `--data`."""
        switches = {"allow_reboot": self.allow_reboot, "update": self.update, "purge": self.purge, "chat": self.chat}
        switches["new_key"] = self.new_key
        given = {**{key: "yes" for key, on in switches.items() if on}, "accept_gpus": ",".join(self.accept_gpus)}
        given["leave_chats"] = self.leave_chats
        return [f"{key}={value}" for key, value in given.items() if value]

    def checked(self, plan: Plan) -> Wish:
        """Return itself; InputError where it names a host, or a chat's, that the site does not have."""
        known = [host.name for host in plan.hosts]
        for option, names in (("--limit", self.limit), ("--accept-gpus", self.accept_gpus)):
            for name in names:
                if name not in known:
                    raise InputError(f"{option} {name}: the site has no such host; it has {', '.join(known)}")
        if self.leave_chats and plan.chat is None:
            raise InputError(f"--leave-chats {self.leave_chats}: the site has no chat")
        return self


def pyinfra_command(site_file: Path, wish: Wish, *, script: str = "deploy.py", dry: bool = False) -> list[str]:
    """Return the command that an admin could type as well, run from the checkout."""
    command = [str(Path(sys.executable).with_name("pyinfra"))]
    # pyinfra tells its story on standard error; with --json the outcome of each host is on standard output.
    command += ["--dry"] if dry else ["-y", "--json"]
    for host in wish.limit:
        command += ["--limit", host]
    for pair in wish.data:
        command += ["--data", pair]
    path = inventory_file(site_file).resolve()
    return [*command, str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path), script]


def failed_hosts(output: str) -> list[str]:
    """Return hosts that pyinfra's --json names as failed; empty where it ended before it could say so."""
    try:
        return [str(name) for name in json.loads(output)["results"]["failed_hosts"]]
    except (ValueError, KeyError, TypeError):
        return []


def changes(output: str) -> int:
    """Return how many operations changed something, summed over the hosts."""
    return int(json.loads(output)["results"]["totals"]["success"])


def run_pyinfra(plan: Plan, site_file: Path, console: Console, wish: Wish, *, script: str, dry: bool) -> int:
    """Print the command and run it; returns how many operations changed something, 0 where it was dry.

    FlexiError names the hosts that failed.
    """
    command = pyinfra_command(site_file, wish, script=script, dry=dry)
    _refuse_without_files(plan)
    _refuse_without_root(plan, site_file, wish)
    console.print(f"$ {shlex.join(command)}", highlight=False, soft_wrap=True)
    done = subprocess.run(command, cwd=ROOT, stdout=None if dry else subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        failed = failed_hosts(done.stdout or "") or list(wish.limit) or [host.name for host in plan.hosts]
        raise FlexiError(f"see above why; safe to run again once it is mended. Not deployed: {', '.join(failed)}")
    return 0 if dry else changes(done.stdout)


def _refuse_without_files(plan: Plan) -> None:
    """Raise InputError where a file that SSH needs cannot be read: pyinfra fails with a traceback, or does without."""
    for name in ("config", "identity"):
        for path in {getattr(host.ssh, name) for host in plan.hosts} - {None}:
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                reason = (error.strerror or "no file").lower()
                raise InputError(
                    f"ssh.{name}: {path} cannot be read ({reason}): correct the path, or remove it"
                ) from None


def _refuse_without_root(plan: Plan, site_file: Path, wish: Wish) -> None:
    """Raise FlexiError where a host answers and its user may not become root.

    pyinfra would ask for a password that no later command could ask for, and where it cannot ask it breaks off. Hosts
    that do not answer are left to pyinfra.
    """
    hosts = [host for host in plan.hosts if not wish.limit or host.name in wish.limit]
    answers = remote.for_each(hosts, lambda host: remote.run(host, "sudo -n true"))
    refused = {name: answer for name, answer in answers.items() if answer.reached and answer.status != 0}
    if refused:
        why = (next(iter(refused.values())).stderr.splitlines() or ["sudo -n true fails"])[-1]
        raise FlexiError(
            f"{hosts[0].ssh.user} may not become root on {', '.join(refused)} ({why}): nothing was touched. "
            f"What mends it: ./flexi doctor {site_argument(site_file)}"
        )


def deploy(plan: Plan, site_file: Path, console: Console, wish: Wish, *, dry: bool, wait: bool) -> int:
    """Run pyinfra and, unless `wait` is off, wait for the models; returns the exit status."""
    wish.checked(plan)
    changed = run_pyinfra(plan, site_file, console, wish, script="deploy.py", dry=dry)
    if dry:
        return EXIT_OK
    console.print(f"{changed} operations changed something", highlight=False)
    return wait_for_models(plan, console, wish, settle_s=instances.SETTLE_S if changed else 0.0) if wait else EXIT_OK


def roll_back(plan: Plan, site_file: Path, console: Console, wish: Wish) -> int:
    """Make the Ollama release before the site file's current on GPU hosts; returns the exit status.

    InputError where the site has no GPU host.
    """
    gpu_hosts = tuple(host.name for host in plan.hosts if host.ollama)
    if not gpu_hosts:
        raise InputError(f"{site_file}: the site has no GPU host, so there is no Ollama to roll back")
    for name in wish.limit:
        if name not in gpu_hosts:
            raise InputError(f"--host {name}: the site has no such GPU host; it has {', '.join(gpu_hosts)}")
    wish = replace(wish, limit=wish.limit or gpu_hosts)
    run_pyinfra(plan, site_file, console, wish, script="rollback.py", dry=False)
    wanted = next(host.ollama.version for host in plan.hosts if host.ollama)
    console.print(
        f"The site file still says ollama.version {wanted}: write what runs now into it, or the next deploy goes forth",
        highlight=False,
        soft_wrap=True,
    )
    return wait_for_models(plan, console, wish, settle_s=0.0)


def roll_back_chat(plan: Plan, site_file: Path, console: Console) -> int:
    """Make the Open WebUI before the site file's current; returns the exit status. InputError without a chat."""
    if plan.chat is None:
        raise InputError(f"{site_file}: the site has no chat to roll back")
    run_pyinfra(plan, site_file, console, Wish(limit=(plan.chat.host,), chat=True), script="rollback.py", dry=False)
    console.print(
        f"The site file still says chat.version {plan.chat.version}: write what runs now into it, or the next deploy "
        "goes forth",
        highlight=False,
        soft_wrap=True,
    )
    return EXIT_OK


def check_removable(plan: Plan, name: str) -> None:
    """Raise InputError where the site has no such host, or it is the gateway."""
    known = [host.name for host in plan.hosts]
    if name not in known:
        raise InputError(f"{name}: the site has no such host; it has {', '.join(known)}")
    if name == plan.gateway.host:
        raise InputError(f"{name} is the gateway: name another host in gateway.host and deploy, then remove {name}")


def remove(plan: Plan, site_file: Path, console: Console, name: str, *, purge: bool, dry: bool) -> int:
    """Make a host an ordinary server again, or only show what would go; returns the exit status. InputError as
    `check_removable` says."""
    check_removable(plan, name)
    wish = Wish(limit=(name,), purge=purge)
    run_pyinfra(plan, site_file, console, wish, script="remove.py", dry=dry)
    if dry:
        return EXIT_OK
    points = [f"Now take {name} out of {site_file} and deploy: the gateway forgets it then."]
    if plan.host(name).driver:
        points += [
            f"{name} keeps its driver, but neither holds nor pins: its next upgrades may replace the driver or boot a "
            "kernel that it has no modules for."
        ]
    chat = plan.host(name).chat
    if chat and chat.database and chat.database.server:
        points += [
            f"PostgreSQL keeps the chats on {name}: `sudo -u postgres dropdb {chat.database.name}` removes them."
        ]
    for point in points:
        console.print(point, highlight=False, soft_wrap=True)
    return EXIT_OK


def last_homes(plan: Plan, name: str) -> list[str]:
    """Return models that only this host has."""
    elsewhere = {model.name for i in plan.instances if i.host != name for model in i.models}
    here = dict.fromkeys(model.name for i in plan.instances if i.host == name for model in i.models)
    return [model for model in here if model not in elsewhere]


def wait_for_models(plan: Plan, console: Console, wish: Wish, settle_s: float) -> int:
    """Wait until all models on the hosts of the wish are loaded; returns the exit status."""
    waited_for = [host.name for host in plan.hosts if host.agent and (not wish.limit or host.name in wish.limit)]
    if not waited_for:
        return EXIT_OK
    result = instances.wait_until_ready(
        plan, console, READY_TIMEOUT_S, lambda plan: instances.read_all(plan, waited_for), settle_s=settle_s
    )
    if not result.ready:
        for point in result.open_points:
            console.print(f"not ready: {point}", highlight=False, markup=False)
        return EXIT_FAILED
    where = f" on {', '.join(waited_for)}" if wish.limit else ""
    console.print(f"all models{where} are loaded ({result.seconds:.0f} s)", highlight=False)
    return EXIT_OK


def deploy_and_verify(site_file: Path, console: Console) -> int:
    """Deploy to a lab that is up, wait for the models and check; returns the exit status."""
    plan = build_plan(load_site(site_file))
    # Whoever brings a lab up may reboot its machines.
    status_of_deploy = deploy(plan, site_file, console, Wish(allow_reboot=True), dry=False, wait=True)
    if status_of_deploy != EXIT_OK:
        return status_of_deploy
    health = verify.verify(site_file)
    verify.show(health, console)
    return health.exit_status
