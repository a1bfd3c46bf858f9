"""`flexi courses`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

from flexi.cli.options import json_option
from flexi.components.chat_programs import chat_program
from flexi.configfile.findings import nearest
from flexi.courses.load import Course, load_courses
from flexi.courses.progress import Steps
from flexi.courses.review import Reviewed, review
from flexi.errors import EXIT_BAD_INPUT, EXIT_FAILED, FlexiError, InputError
from flexi.plan import build_plan
from flexi.plan.model.chat import ChatPlan
from flexi.plan.model.site import HostPlan
from flexi.site import SiteError, find_site, load_site
from flexi.ssh import remote


@click.group("courses")
def courses() -> None:
    """The site's course bots: looked through before a deploy, and tried after it."""


@courses.command("check")
@click.argument("place")
@json_option
def check(place: str, as_json: bool) -> None:
    """Look through the courses of PLACE, a site or a folder: each file is opened, and its text looked for.

    Touches no host. A folder may hold courses, or be one.
    """
    try:
        found = _courses(place)
    except SiteError as error:
        if not as_json:
            raise
        findings = [vars(finding) for finding in error.findings]
        _print({"schema": 1, "ok": False, "courses": [], "findings": findings})
        sys.exit(EXIT_BAD_INPUT)
    total, done = sum(len(course.material) for course in found), 0
    with Steps(Console(stderr=True, quiet=as_json or not sys.stderr.isatty())) as steps:

        def looked_at(course: Course, file: object) -> None:
            nonlocal done
            done += 1
            steps.step(f"{course.content.id}: {getattr(file, 'name', '')}", done, total)

        reviewed = review(found, looked_at)
    _show(reviewed, as_json)
    if any(each.findings for each in reviewed):
        sys.exit(EXIT_BAD_INPUT)


def _courses(place: str) -> tuple[Course, ...]:
    folder = Path(place)
    if folder.is_dir():
        return load_courses(folder, place.rstrip("/") or "/")
    site = load_site(find_site(place))
    if not site.courses:
        raise InputError(f"{site.shown_as}: the site has no courses: set chat.courses to a folder of them")
    return site.courses


def _show(reviewed: list[Reviewed], as_json: bool) -> None:
    if as_json:
        courses = [
            {
                "id": each.course.content.id,
                "title": each.course.content.title,
                "files": len(each.course.material),
                "bytes": each.size,
                "ok": not each.findings,
            }
            for each in reviewed
        ]
        findings = [vars(finding) for each in reviewed for finding in each.findings]
        _print({"schema": 1, "ok": not findings, "courses": courses, "findings": findings})
        return
    for each in reviewed:
        content = each.course.content
        for finding in each.findings:
            click.echo(str(finding), err=True)
        words = f"{len(each.findings)} of {len(each.course.material)} files are no use" if each.findings else "fine"
        click.echo(f"{content.id}: {words}: {content.title}, {len(each.course.material)} files, {decimal(each.size)}")


@courses.command("ask")
@click.argument("site")
@click.argument("course")
@click.argument("question")
@json_option
def ask(site: str, course: str, question: str, as_json: bool) -> None:
    """Ask the bot of COURSE a question, as its users would, and show its answer and its sources."""
    plan = build_plan(load_site(find_site(site)))
    if plan.chat is None:
        raise InputError(f"{site} has no chat: add chat to the site file")
    known = [each.id for each in plan.chat.courses]
    if course not in known:
        close = nearest(course, known)
        hint = f"did you mean '{close}'?" if close else f"there are {', '.join(known) or 'none'}"
        raise InputError(f"{course} is no course of the site: {hint}")
    if not question.strip():
        raise InputError("the question is empty: write one, in quotes")
    host = next(host for host in plan.hosts if host.name == plan.chat.host)
    events = _asked(host, plan.chat, course, question)
    if as_json:
        answer = ""
        sources: list[dict[str, Any]] = []
        for event in events:
            answer += event.get("piece", "")
            sources = event.get("sources", sources)
        _print({"schema": 1, "course": course, "answer": answer, "sources": sources})
        return
    _stream(events)


def _asked(host: HostPlan, chat: ChatPlan, course: str, question: str) -> Iterator[dict[str, Any]]:
    """The program's events. FlexiError with its words, or SSH's, where it fails. The question is in no argument."""
    url = chat.inside_url
    program = chat_program("courses", "--url", url, "ask", course)
    command = program if host.ssh.user == "root" else f"sudo -n {program}"
    argv = remote.ssh_command(host.ssh, command)
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ssh:
        assert ssh.stdin is not None
        assert ssh.stdout is not None
        assert ssh.stderr is not None
        ssh.stdin.write(question)
        ssh.stdin.close()
        said = False
        for line in ssh.stdout:
            event = json.loads(line) if line.startswith("{") else {}
            if "problem" in event:
                raise FlexiError(str(event["problem"]))
            said = True
            yield event
        words = ssh.stderr.read().strip().splitlines()
    if ssh.returncode != 0 or not said:
        raise FlexiError(f"{host.name}: {words[-1] if words else 'the bot gave no answer'}")


def _stream(events: Iterator[dict[str, Any]]) -> None:
    out = Console(highlight=False, soft_wrap=True)
    sources: list[dict[str, Any]] = []
    for event in events:
        sources = event.get("sources", sources)
        out.print(escape(event.get("piece", "")), end="")
    out.print()
    if not sources:
        out.print("\nno source: nothing of the material came with the question")
        sys.exit(EXIT_FAILED)
    out.print("\nsources:")
    for number, source in enumerate(sources, 1):
        pages = sorted({passage["page"] for passage in source["passages"] if passage["page"] is not None})
        where = f", page {', '.join(map(str, pages))}" if pages else ""
        out.print(escape(f"  [{number}] {source['name']}{where}"))


def _print(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
