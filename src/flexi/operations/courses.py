"""Course bots: their material on the chat's host, and the chat converged to the plan."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
from collections.abc import Generator, Mapping, Sequence
from io import StringIO
from pathlib import Path

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.operations import files
from rich.console import Console
from rich.filesize import decimal

from flexi.components.chat_programs import chat_program
from flexi.configs.courses import courses_config
from flexi.courses.progress import Steps
from flexi.errors import FlexiError
from flexi.facts.chat import COURSES, CourseBots, CourseStore
from flexi.operations.bundle import push_files
from flexi.operations.host_failure import fail_host, report_failure
from flexi.plan.model.chat import ChatPlan
from flexi.plan.model.courses import COURSES_STORE, CoursePlan
from flexi.ssh import remote
from flexi.ssh.pushing import Item
from flexi_chat.courses.wanted import difference, embedded_anew

TIMER = "flexi-courses.timer"
Commands = Generator[StringCommand | FunctionCommand, None, None]


def digests(courses: Sequence[CoursePlan]) -> dict[str, str]:
    """Return SHA-256 of all material by its path. FlexiError where a file cannot be read."""
    found = {}
    for file in (file for course in courses for file in course.material):
        try:
            now = os.stat(file.path, follow_symlinks=False)
            found[file.path] = _digest(file.path, now.st_size, now.st_mtime_ns, now.st_ino)
        except OSError as error:
            raise FlexiError(f"{file.path} cannot be read ({error.strerror}): run it again") from None
    return found


@functools.cache
def _digest(path: str, size: int, changed: int, inode: int) -> str:
    """Hash a file once for each state of it: several operations and both of pyinfra's passes ask."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@operation()
def upload_material(courses: Sequence[CoursePlan], home: str = COURSES_STORE) -> Commands:
    """Bring the files that the host has not, each under its SHA-256, and remove those that no course has any more."""
    stored = host.get_fact(CourseStore, home=home)
    try:
        known = digests(courses)
    except FlexiError as error:
        yield fail_host(str(error))
        return
    wanted = {
        known[file.path]: Item(Path(file.path), known[file.path], known[file.path], file.size)
        for course in courses
        for file in course.material
    }
    missing = [item for sha256, item in sorted(wanted.items()) if sha256 not in stored.files]
    old = sorted(stored.files - set(wanted))
    if not missing and not old:
        host.noop("all material is there")
        return
    needed = sum(item.size for item in missing)
    if needed > stored.free_bytes:
        yield fail_host(f"{home} needs {decimal(needed)} and has {decimal(stored.free_bytes)} free: make room")
        return
    if missing:
        yield FunctionCommand(push_files, (missing, home), {})
    if old:
        names = "".join(f"{sha256}\n" for sha256 in old)
        yield StringCommand("sh", "-c", QuoteString(f"cd {home} && xargs -r rm -f --"), _stdin=names)


@operation()
def write_wanted(chat: ChatPlan, dest: str, group: str) -> Commands:
    """Write what bots there should be; `group` may read it: it names accounts."""
    try:
        content = courses_config(chat, digests(chat.courses))
    except FlexiError as error:
        yield fail_host(str(error))
        return
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    yield from files.put._inner(src=StringIO(text), dest=dest, group=group, mode="0640", create_remote_dir=False)


@operation()
def converge(chat: ChatPlan) -> Commands:
    """Make the chat's bots, their material and who may use them what the plan says."""
    url = chat.inside_url
    found = host.get_fact(CourseBots, url=url)
    try:
        wanted = courses_config(chat, digests(chat.courses))
    except FlexiError as error:
        yield fail_host(str(error))
        return
    if found is not None and not difference(wanted, found):
        host.noop("the chat has all of it")
        return
    anew = embedded_anew(wanted, found) if found else {}
    if anew and not host.state.is_executing:
        host.log_styled(
            f"{sum(anew.values())} files are embedded anew, by {chat.embedding_model}; a course's bot is away until "
            f"all of its files are: {', '.join(anew)}",
            fg="yellow",
            log_func=logger.warning,
        )
    yield FunctionCommand(_converge, (chat_program(COURSES, "--url", url, "converge"),), {})


def _converge(state: State, host: Host, command: str) -> bool:
    """Run the program on the host and show its steps; False, with the reasons, where nothing but a deploy mends it.

    What waits (a model that is not loaded yet, a file without text) is a warning: the timer goes on with it.
    """
    argv = remote.ssh_command(host.data.flexi_host.ssh, remote.ROOT_SHELL)
    problems: list[str] = []
    waiting: list[str] = []
    finished = False
    with (
        Steps(Console(stderr=True)) as steps,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ssh,
    ):
        assert ssh.stdin is not None
        assert ssh.stdout is not None
        assert ssh.stderr is not None
        ssh.stdin.write(f"exec {command} </dev/null\n")
        ssh.stdin.close()
        for line in ssh.stdout:
            event = _event(line)
            if "step" in event:
                steps.step(str(event["step"]), int(str(event["done"])), int(str(event["of"])))
            elif "problem" in event:
                (waiting if event.get("waits") else problems).append(str(event["problem"]))
            elif "done" in event:
                finished = True
        words = ssh.stderr.read().strip().splitlines()
    for point in waiting:
        host.log_styled(f"{point}; {TIMER} tries it again", fg="yellow", log_func=logger.warning)
    if not problems and (finished or waiting):
        return True
    if not problems:
        problems.append(f"the run broke off: {words[-1] if words else 'no reason was given'}; deploy again to go on")
    for problem in problems:
        report_failure(state, host, problem)
    return False


def _event(line: str) -> Mapping[str, object]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
