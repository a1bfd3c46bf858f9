"""What a person enters where flexi has no shell: Moodle's own words (lang/en of 4.5 and 5.1.3), with the values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from flexi.plan.model.moodle import MoodlePlan

_ACTIONS = {"generate_text": "Generate text", "summarise_text": "Summarise text", "explain_text": "Explain text"}
_PLUGINS = {"openai": "OpenAI API provider", "ollama": "Ollama API provider"}


@dataclass(frozen=True)
class Step:
    """One thing to do: where, and what to enter there (label, value), or plain sentences."""

    title: str
    fields: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def steps(plan: MoodlePlan, site: str, has_key: bool) -> tuple[Step, ...]:
    """All of them, in order. `has_key`: the consumer is there already, so that its key exists, or is lost."""
    found = [_key(plan, site, has_key), _security(plan), _provider(plan), *_actions(plan)]
    found += [
        Step(
            "Site administration > AI > AI placements",
            notes=("Enable Text editor placement and Course assistance placement, for who is to see the actions.",),
        )
    ]
    return (*found, *_ai_manager(plan), *_openchat(plan))


def _key(plan: MoodlePlan, site: str, has_key: bool) -> Step:
    if has_key:
        note = f"./flexi keys rotate {site} {plan.consumer}      where its key is no longer known"
        return Step(f"The consumer {plan.consumer} has a key: take that one", notes=(note,))
    command = f"./flexi keys add {site} {plan.consumer} --class {plan.class_name} --purpose Moodle"
    return Step("Make a key: it is shown once, and entered below as KEY", notes=(command,))


def _security(plan: MoodlePlan) -> Step:
    parts = urlsplit(plan.gateway_url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return Step(
        "Site administration > General > Security > HTTP security",
        fields=(
            ("cURL allowed ports list", f"has a line {port}"),
            ("cURL blocked hosts list", f"has neither {parts.hostname} nor its address in it, nor a network around it"),
        ),
        notes=("By default it blocks 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 and this machine itself.",),
    )


def _provider(plan: MoodlePlan) -> Step:
    fields = [("Name for instance", plan.name)]
    if plan.provider == "openai":
        fields += [("OpenAI API key", "KEY"), ("OpenAI organization ID", "(empty)")]
    else:
        fields += [("API endpoint", plan.gateway_url), ("Enable basic authentication", "yes")]
        fields += [("Username", plan.consumer), ("Password", "KEY")]
    fields += [
        ("Set site-wide rate limit", _limit(plan.per_hour)),
        ("Set user rate limit", _limit(plan.per_user_hour)),
    ]
    notes = ["Moodle 4.5: Site administration > AI > AI providers > OpenAI API provider, without a name."]
    if plan.provider == "ollama":
        notes = [
            "Moodle as of 5.1.3 stores this form's 'Enable basic authentication' under one name and reads another: "
            "entered by hand, the key is never sent. Take the OpenAI API provider (moodle.provider: openai), or "
            "./flexi moodle deploy, which sets both."
        ]
    title = f"Site administration > AI > AI providers > Create a new provider instance: {_PLUGINS[plan.provider]}"
    return Step(title, tuple(fields), tuple(notes))


def _limit(value: int | None) -> str:
    return "no" if value is None else f"yes, {value}"


def _actions(plan: MoodlePlan) -> Iterator[Step]:
    for action in plan.actions:
        fields = [("AI model", "Custom"), ("Custom model name", action.model)]
        if plan.provider == "openai":
            fields.append(("API endpoint", f"{plan.gateway_url}/v1/chat/completions"))
        fields.append(("System instruction", action.instruction or "(leave as it is)"))
        yield Step(f"The same page > {plan.name} > Settings of the action {_ACTIONS[action.name]}", tuple(fields))
    off = [title for name, title in _ACTIONS.items() if name not in {action.name for action in plan.actions}]
    off += ["Generate image"] if plan.provider == "openai" else []
    if off:
        yield Step(f"The same page > {plan.name}", notes=(f"Switch off: {', '.join(off)}.",))


def _ai_manager(plan: MoodlePlan) -> Iterator[Step]:
    if not {"local_ai_manager", "block_ai_chat", "qbank_questiongen"} & set(plan.plugins):
        return
    named = [alias for alias in plan.aliases if not alias.startswith("gpt-")]
    if named:
        yield Step(
            "local_ai_manager: an AI tool with the connector Ollama",
            (
                ("Endpoint", f"{plan.gateway_url}/api/chat"),
                ("API key", "KEY"),
                ("Model", "; ".join(f"{alias} (gets {plan.aliases[alias]})" for alias in named)),
            ),
        )
    yield Step(
        "local_ai_manager: or an AI tool with the connector ChatGPT",
        (
            ("Endpoint", f"{plan.gateway_url}/v1/chat/completions"),
            ("API key", "KEY"),
            (
                "Model",
                "; ".join(f"{alias} (gets {model})" for alias, model in plan.aliases.items() if alias not in named),
            ),
            ("Azure", "no"),
        ),
    )


def _openchat(plan: MoodlePlan) -> Iterator[Step]:
    if "mod_openchat" in plan.plugins:
        yield Step(
            "mod_openchat: Site administration > Plugins > Activity modules > OpenChat",
            (("llm_host", f"{plan.gateway_url}/"), ("llm_apikey", "KEY")),
            (
                "At 7df25e6 (2025-08-28) llm_stream.php asks http://localhost:11434/ for phi3:latest, whatever "
                "stands here; only its list of models reaches the gateway. See docs/chat/moodle.md.",
            ),
        )
