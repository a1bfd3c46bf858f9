"""`python -m flexi_chat.courses PROGRAM`: the course bots of this host's chat, as courses.json wants them.

    state              what there is, as JSON (courses_wanted.py has its shape)
    converge           make it what is wanted: a line of JSON for each step; exit status 1 and the reasons where
                       something could not be done (`waits`: another run may do it). --unless-busy: do nothing where
                       another run is under way
    ask COURSE         one question, on standard input, to a bot: the answer's pieces and its sources, a line of JSON
                       for each

The environment is that of the chat's own unit: WEBUI_SECRET_KEY, and DATA_DIR or DATABASE_URL.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flexi_chat.courses import note
from flexi_chat.courses.converge import Converge
from flexi_chat.courses.state import BOT, as_found, read_state
from flexi_chat.courses.wanted import Step
from flexi_chat.webui.client import Webui, WebuiError
from flexi_chat.webui.internal import internal

WANTED = "/etc/flexi/courses.json"
STORE = "/var/lib/flexi-courses"
NOTHING: Mapping[str, Any] = {"index": "", "models": {}, "courses": {}}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="flexi_chat.courses")
    parser.add_argument("--url", default="http://127.0.0.1:8095")
    programs = parser.add_subparsers(dest="program", required=True)
    for name in ("state", "converge"):
        program = programs.add_parser(name)
        program.add_argument("--wanted", default=WANTED)
        if name == "converge":
            program.add_argument("--store", default=STORE)
            program.add_argument("--unless-busy", action="store_true")
    programs.add_parser("ask").add_argument("course")
    options = parser.parse_args(arguments)
    try:
        account, webui = internal(options.url)
        if options.program == "state":
            wanted = _wanted(options.wanted)
            _print(as_found(read_state(webui, account, wanted), wanted))
            return 0
        if options.program == "ask":
            return _ask(webui, options.course, sys.stdin.read())
        with _alone(options.unless_busy) as alone:
            if not alone:
                return 0
            converge = Converge(webui, account, _wanted(options.wanted), Path(options.store), _say, _note)
            try:
                done = converge.run()
            finally:
                for problem in converge.problems:
                    _print({"problem": problem, "waits": problem not in converge.lasting})
            _print({"done": done})
            return 1 if converge.problems else 0
    except WebuiError as error:
        _print({"problem": str(error), "waits": error.status == 0})
        return 1


def _wanted(path: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return NOTHING
    return found


@contextmanager
def _alone(unless_busy: bool) -> Iterator[bool]:
    """Two runs at once would bring each file twice; the second one waits, or goes without."""
    with open(Path(os.environ["DATA_DIR"]) / "flexi-courses.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if unless_busy else 0))
        except BlockingIOError:
            yield False
            return
        yield True


def _note(ready: Mapping[str, note.Readiness]) -> None:
    note.write(Path(os.environ["DATA_DIR"]), ready)


def _say(step: Step, done: int, of: int) -> None:
    _print({"step": str(step), "done": done, "of": of})


def _ask(webui: Webui, course: str, question: str) -> int:
    # A worker knows the bots that it last listed.
    if BOT + course not in {model["id"] for model in webui.get("/api/models")["data"]}:
        raise WebuiError(404, f"the chat has no bot {BOT}{course}: deploy it first")
    body = {"model": BOT + course, "stream": True, "messages": [{"role": "user", "content": question}]}
    for event in webui.stream("/api/chat/completions", body):
        if "sources" in event:
            _print({"sources": _sources(event["sources"])})
        for choice in event.get("choices", ()):
            piece = (choice.get("delta") or choice.get("message") or {}).get("content")
            if piece:
                _print({"piece": piece})
        if event.get("error"):
            raise WebuiError(502, json.dumps(event["error"]))
    return 0


def _sources(sources: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a person sees below the answer: the files, in the order of the numbers in the answer's brackets."""
    found: dict[str, dict[str, Any]] = {}
    for source in sources:
        for text, metadata in zip(source.get("document", ()), source.get("metadata", ()), strict=False):
            file = found.setdefault(metadata.get("source", ""), {"name": metadata.get("name", ""), "passages": []})
            page = metadata.get("page")
            file["passages"].append({"text": text, "page": page + 1 if isinstance(page, int) else None})
    return list(found.values())


def _print(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    sys.exit(main())
