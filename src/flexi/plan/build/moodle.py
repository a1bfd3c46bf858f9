"""Moodle in the plan: what its provider is set to, and what its plugins need of the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flexi.plan.model.moodle import MOODLE_ACTIONS, MoodleAction, MoodleHostPlan, MoodlePlan
from flexi.plan.model.ssh import SshPlan

if TYPE_CHECKING:
    from flexi.site.model import Site
    from flexi.site.schema.moodle import Moodle, MoodleSsh

OLLAMA_NAMES = (
    "gemma",
    "gemma3",
    "llama3",
    "llama3.1",
    "llama3.2-vision",
    "llama3.3",
    "llama4",
    "phi4",
    "mistral",
    "mistral-small3.1",
    "codellama",
    "qwen",
    "mixtral",
    "dolphin-mixtral",
    "tinyllama",
    "llava-llama3",
    "llava-phi3",
    "granite-3.2-vision",
    "bakllava",
    "moondream",
    "qwen2.5vl",
)
"""What local_ai_manager's Ollama connector can name, fixed and without tags (bycs-lp/moodle-local_ai_manager,
tools/ollama/classes/connector.php, get_models_by_purpose, at 2bd1e5cc)."""
OPENAI_NAMES = ("gpt-4o", "gpt-4o-mini")
"""Of what its ChatGPT connector can name: they get `moodle.model`, whatever that is."""
_AI_MANAGER = {"local_ai_manager", "block_ai_chat", "qbank_questiongen"}
"""The second and the third ask through the first."""


def moodle_plan(site: Site) -> MoodlePlan | None:
    """None where the site has no Moodle."""
    moodle = site.content.moodle
    if moodle is None:
        return None
    return MoodlePlan(
        url=moodle.url,
        name=moodle.name,
        provider=moodle.provider,
        gateway_url=_gateway_url(site),
        consumer=moodle.consumer,
        class_name=moodle.class_name,
        actions=_actions(moodle),
        actions_named=bool(moodle.actions),
        per_user_hour=moodle.per_user_hour,
        per_hour=moodle.per_hour,
        plugins=moodle.plugins,
        aliases={
            alias.removesuffix(":latest"): site.content.gateway.aliases.get(alias, model)
            for alias, model in moodle_aliases(site).items()
        },
        origin=_origin(moodle.url),
        host=_host(site, moodle.ssh) if moodle.ssh else None,
    )


def moodle_aliases(site: Site) -> dict[str, str]:
    """Names that Moodle's plugins insist on, for models that the site has, spelled as in `gateway.aliases`; none for a
    name that a model has already."""
    moodle = site.content.moodle
    if moodle is None or not _AI_MANAGER & set(moodle.plugins):
        return {}
    models = [load.name for _, _, _, group in site.groups() for load in site.loads(group) if not load.facts.embedding]
    taken = {name.lower() for name in models}
    families: dict[str, str] = {}
    for model in models:
        families.setdefault(model.lower().partition(":")[0], model)
    found = {f"{name}:latest": families[name] for name in OLLAMA_NAMES if name in families}
    found |= dict.fromkeys((f"{name}:latest" for name in OPENAI_NAMES), moodle.model)
    return {alias: model for alias, model in found.items() if alias not in taken}


def moodle_origins(site: Site) -> tuple[str, ...]:
    """Origins whose pages ask the gateway from the browser."""
    moodle = site.content.moodle
    return (_origin(moodle.url),) if moodle and "mod_openchat" in moodle.plugins else ()


def moodle_keyless(site: Site) -> tuple[str, ...]:
    """What needs no key: mod_openchat's pages ask for `api/tags` and `api/show`, and have none (at 7df25e6)."""
    moodle = site.content.moodle
    return ("tags", "show") if moodle and "mod_openchat" in moodle.plugins else ()


def _actions(moodle: Moodle) -> tuple[MoodleAction, ...]:
    found = []
    for name in MOODLE_ACTIONS:
        given = moodle.actions.get(name)
        if given or not moodle.actions:
            model = given.model if given and given.model else moodle.model
            found.append(MoodleAction(name=name, model=model, instruction=given.instruction if given else None))
    return tuple(found)


def _gateway_url(site: Site) -> str:
    scheme, own = ("https", 443) if site.content.gateway.tls else ("http", 80)
    port = "" if site.users_port == own else f":{site.users_port}"
    return f"{scheme}://{site.content.gateway.name}{port}"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    own = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port not in (None, own) else "")


def _host(site: Site, given: MoodleSsh) -> MoodleHostPlan:
    return MoodleHostPlan(
        ssh=SshPlan(
            address=given.address,
            user=given.user or site.content.ssh.user,
            port=given.port,
            config=site.beside(site.content.ssh.config),
            identity=site.beside(site.content.ssh.identity),
        ),
        web_user=given.web_user,
        php=given.php,
        config=given.config,
    )
