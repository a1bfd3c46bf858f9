"""What a teacher may write into a course.yaml. The one place where its keys, types, defaults and meaning are set.

docs/course.schema.json is generated from here (`python -m flexi.docgen`).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from flexi.configfile import names
from flexi.configfile.names import refused
from flexi.configfile.section import ModelName, Section

MAX_TEXT = 20_000
"""Characters of a system prompt or a welcome. The prompt goes with each request, and takes from the model's context."""


def course_id(value: str) -> str:
    """It names the bot in the chat and its API, so it never changes while the course lives."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?", value, re.ASCII):
        raise refused(
            "is no course id (small letters, digits and inner hyphens, at most 48)", "write e.g. 'algorithms-1'"
        )
    return value


def paragraphs(value: str) -> str:
    """Several lines; nothing that a terminal or a page would not show."""
    if not value.strip():
        raise refused("is no text", "write a sentence, or remove the key")
    if len(value) > MAX_TEXT:
        raise refused(f"has more than {MAX_TEXT} characters", "shorten it: what is long belongs into the material")
    if any(not (char.isprintable() or char in "\n\t") for char in value):
        raise refused("holds a control character", "remove it")
    return value.strip()


def short_line(value: str) -> str:
    if len(names.one_line(value)) > 120:
        raise refused("has more than 120 characters", "shorten it")
    return value.strip()


def member_group(value: str) -> str:
    """A group of accounts, as the directory or the chat calls it."""
    if len(names.one_line(value)) > 200 or value != value.strip() or "," in value:
        raise refused("is no name of a group (one line without commas)", "write it as the directory has it")
    return value


def account(value: str) -> str:
    """The chat keeps addresses in small letters."""
    return names.mail_address(value).lower()


class Access(Section):
    """Who may see and ask the bot. Nobody else finds it, neither on the page nor through the API."""

    everyone: bool = Field(default=False, description="All who may use the chat.", examples=[True])
    groups: tuple[Annotated[str, AfterValidator(member_group)], ...] = Field(
        default=(),
        strict=False,
        description="Groups of accounts, as the directory or the chat calls them. A missing one is made, empty.",
        examples=[["algorithms-2026"]],
    )
    accounts: tuple[Annotated[str, AfterValidator(account)], ...] = Field(
        default=(),
        strict=False,
        description="Single accounts by mail address, beside the groups. Who has no account yet gets in once they do.",
        examples=[["ada@example.edu"]],
    )


class CourseFile(Section):
    """A course bot: `course.yaml` in the course's folder, with the material in `material/` beside it."""

    id: Annotated[str, AfterValidator(course_id)] = Field(
        description="Names the bot: `course-<id>` in the chat's API. Another id is another course.",
        examples=["algorithms-1"],
    )
    title: Annotated[str, AfterValidator(short_line)] = Field(
        description="What people see; may change at any time.", examples=["Algorithms 1"]
    )
    model: ModelName | None = Field(
        default=None, description="Which model answers. Default: the chat's default model.", examples=["llama3:8b"]
    )
    temperature: float = Field(
        default=0.2, ge=0, le=2, description="0: always the same answer; 1: lively.", examples=[0.2]
    )
    language: Literal["de", "en"] | None = Field(
        default=None,
        description="Language of the built-in system prompt. Default: the chat's language.",
        examples=["de"],
    )
    system_prompt: Annotated[str, AfterValidator(paragraphs)] | None = Field(
        default=None,
        description="What the model is told before each conversation. Default: to answer from the material only and to "
        "say so where it has no answer.",
        examples=["You are the tutor of Algorithms 1. Answer in short sentences."],
    )
    access: Access = Field(
        description="Who may use it. Must name somebody.", examples=[{"groups": ["algorithms-2026"]}]
    )
    welcome: Annotated[str, AfterValidator(paragraphs)] | None = Field(
        default=None,
        description="Text under the bot's name before the first question.",
        examples=["Ask me about the course text."],
    )
    questions: tuple[Annotated[str, AfterValidator(short_line)], ...] = Field(
        default=(),
        max_length=8,
        strict=False,
        description="Questions to start with, at most eight; a click asks them.",
        examples=[["What is a heap?"]],
    )
