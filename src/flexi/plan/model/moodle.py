"""The Moodle's part of the plan: plain data, as in `flexi.plan.model.site`."""

from __future__ import annotations

from flexi.catalog.frozen import Frozen
from flexi.catalog.moodle import MoodleActionName, MoodlePlugin, MoodleProvider
from flexi.plan.model.ssh import SshPlan

MOODLE_ACTIONS: tuple[MoodleActionName, ...] = ("generate_text", "summarise_text", "explain_text")
"""Actions of core_ai that answer with text. 4.5 has no explain_text, which is left out there."""


class MoodleHostPlan(Frozen):
    """The machine that Moodle runs on. It is none of the site's hosts: flexi installs nothing there."""

    ssh: SshPlan
    web_user: str
    """Whom Moodle's command-line programs run as."""
    php: str
    config: str
    """Absolute path of Moodle's config.php."""


class MoodleAction(Frozen):
    name: MoodleActionName
    model: str
    instruction: str | None
    """For the model; None leaves Moodle's own, or what its admin made of it."""


class MoodlePlan(Frozen):
    url: str
    name: str
    """Of the provider in Moodle."""
    provider: MoodleProvider
    gateway_url: str
    """Without a path."""
    consumer: str
    class_name: str
    actions: tuple[MoodleAction, ...]
    actions_named: bool
    """Whether the site file names them: one that Moodle does not know is then an error."""
    per_user_hour: int | None
    per_hour: int | None
    plugins: tuple[MoodlePlugin, ...]
    aliases: dict[str, str]
    """What the plugins call models, and the models that they get."""
    origin: str
    """Of Moodle's pages, as browsers send it."""
    host: MoodleHostPlan | None
    """None: a person enters everything (`flexi moodle steps`)."""
