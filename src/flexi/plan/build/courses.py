"""Course bots in the plan: what a course.yaml leaves out, and which models their users must be able to reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flexi.plan.model.courses import AccessPlan, CoursePlan, MaterialPlan, VisibleModel

if TYPE_CHECKING:
    from flexi.courses import Course
    from flexi.site.model import Site
    from flexi.site.schema.chat import Chat

SYSTEM_PROMPTS = {
    "de": "Du bist der Lernassistent des Kurses „{title}“. Antworte auf Deutsch, sachlich und kurz. Stütze dich nur "
    "auf das Kursmaterial, das mit der Frage kommt, und nenne die Quelle. Steht die Antwort nicht darin, dann sage "
    "das, rate nicht und verweise an die Lehrenden.",
    "en": "You are the tutor of the course “{title}”. Answer in English, to the point and briefly. Rely only on the "
    "course material that comes with the question, and name the source. If the answer is not in it, say so, do not "
    "guess, and refer to the teachers.",
}
WELCOMES = {
    "de": "Ich beantworte Fragen zum Material des Kurses und nenne die Stelle. Ich kann mich irren: Prüfe, was "
    "wichtig ist, in der Quelle nach.",
    "en": "I answer questions about the course's material and name the place. I can be wrong: check what matters in "
    "the source.",
}


def course_plans(site: Site, chat: Chat, default_model: str, talking: Sequence[str]) -> tuple[CoursePlan, ...]:
    """The site's courses by id. `talking` are the models that write, as the groups spell them."""
    return tuple(_course(course, chat, default_model, talking) for course in site.courses)


def _course(course: Course, chat: Chat, default_model: str, talking: Sequence[str]) -> CoursePlan:
    content = course.content
    language = content.language or chat.language
    model = content.model or default_model
    access = content.access
    return CoursePlan(
        id=content.id,
        title=content.title,
        model=next(name for name in talking if name.lower() == model.lower()),
        temperature=content.temperature,
        language=language,
        system_prompt=content.system_prompt or SYSTEM_PROMPTS[language].format(title=content.title),
        welcome=content.welcome or WELCOMES[language],
        questions=content.questions,
        access=AccessPlan(
            everyone=access.everyone, groups=tuple(sorted(access.groups)), accounts=tuple(sorted(access.accounts))
        ),
        material=tuple(
            MaterialPlan(name=file.name, path=str(file.path), size=file.size, kind=file.kind)
            for file in course.material
        ),
    )


def visible_models(offered: Sequence[str], courses: Sequence[CoursePlan]) -> tuple[VisibleModel, ...]:
    """What users may reach: the models that the chat offers, and those behind bots for whoever has the bots.

    Open WebUI gives nobody a bot whose model he may not use (utils/access_control: has_base_model_access, 0.12.4).
    """
    found = {name: VisibleModel(name=name, access=AccessPlan(everyone=True), listed=True) for name in offered}
    behind: dict[str, list[AccessPlan]] = {}
    for course in courses:
        if course.model not in found:
            behind.setdefault(course.model, []).append(course.access)
    for name, parts in behind.items():
        found[name] = VisibleModel(name=name, access=_together(parts), listed=False)
    return tuple(found[name] for name in sorted(found))


def _together(parts: Sequence[AccessPlan]) -> AccessPlan:
    if any(part.everyone for part in parts):
        return AccessPlan(everyone=True)
    return AccessPlan(
        everyone=False,
        groups=tuple(sorted({group for part in parts for group in part.groups})),
        accounts=tuple(sorted({account for part in parts for account in part.accounts})),
    )
