"""The end of `flexi lab up`: deploy, verify, and say how to talk to the lab."""

from __future__ import annotations

import json
from pathlib import Path

from flexi.cli.options import load, out
from flexi.deploy import run as deploying
from flexi.errors import EXIT_OK
from flexi.lab import chat_account as lab_account
from flexi.lab.lifecycle import Lab
from flexi.paths import INVENTORY
from flexi.plan.model.site import Plan


def greeting(site_file: Path, plan: Plan) -> str:
    """How to talk to a lab that is up: one request for a model on each GPU host."""
    name = "" if site_file.parent == INVENTORY else f" --name {site_file.parents[1].name}"
    lines = ["", "Talk to it:", "", f'  eval "$(./flexi lab env{name})"']
    for host in (host for host in plan.hosts if host.ollama):
        assert host.ollama is not None
        models = [model for instance in host.ollama.instances for model in instance.models if not model.embedding]
        quickest = max(models, key=lambda model: model.tokens_per_second or 0.0)
        body = json.dumps({"model": quickest.name, "prompt": "Why is the sky blue?"})
        lines += ["", f"  # {quickest.name} on {host.name}", '  curl -H "Authorization: Bearer $FLEXI_API_KEY" \\']
        lines += [f"    $FLEXI_API_URL/api/generate -d '{body}'"]
    if plan.chat:
        lines += ["", "  # the chat, in a browser", '  echo "$FLEXI_CHAT_URL $FLEXI_CHAT_USER $FLEXI_CHAT_PASSWORD"']
    return "\n".join(lines)


def after_lab_up(lab: Lab) -> int:
    exit_status = deploying.deploy_and_verify(lab.site_file, out())
    if exit_status == EXIT_OK:
        lab_account.provide(lab)
        out().print(greeting(*load(str(lab.site_file))), soft_wrap=True)
    return exit_status
