"""From the plan to the file that says which course bots there should be on the chat's host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexi.plan.model.chat import ChatPlan
from flexi.plan.model.courses import AccessPlan, CoursePlan

CAPABILITIES = {
    "vision": False,
    "file_upload": False,
    "web_search": False,
    "image_generation": False,
    "code_interpreter": False,
    "builtin_tools": False,
    "citations": True,
}
"""A bot answers from its material and shows where from; what else the page could offer is off."""


def courses_config(chat: ChatPlan, digests: Mapping[str, str]) -> dict[str, Any]:
    """What stands in /etc/flexi/courses.json (flexi_chat.courses.wanted). `digests`: SHA-256 by path."""
    return {
        "index": chat.embedding_model or "",
        "models": {model.name: {"access": _access(model.access), "hidden": not model.listed} for model in chat.visible},
        "courses": {course.id: _course(course, digests) for course in chat.courses},
    }


def _course(course: CoursePlan, digests: Mapping[str, str]) -> dict[str, Any]:
    return {
        "title": course.title,
        "bot": {
            "base_model_id": course.model,
            # Without `legacy` the material is offered as a tool, which most models here cannot call: the question
            # would reach them without it (utils/middleware.py, 0.12.4).
            "params": {
                "system": course.system_prompt,
                "temperature": course.temperature,
                "function_calling": "legacy",
            },
            "meta": {
                "description": course.welcome,
                "capabilities": CAPABILITIES,
                "suggestion_prompts": [{"content": question} for question in course.questions],
                "tags": [{"name": {"de": "Kurs", "en": "Course"}[course.language]}],
            },
        },
        "access": _access(course.access),
        "files": {file.name: {"sha256": digests[file.path], "kind": file.kind} for file in course.material},
    }


def _access(access: AccessPlan) -> dict[str, Any]:
    return {"everyone": access.everyone, "groups": list(access.groups), "accounts": list(access.accounts)}
