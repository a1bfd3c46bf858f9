"""From the plan to the file that the gateway's guard reads."""

from __future__ import annotations

from flexi.plan.model.gateway import ClassPlan, GatewayPlan
from flexi.plan.model.site import Plan
from flexi_host.guard.config import EVERYTHING

PATHS = (
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/api/show",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
)
"""What instances are asked for clients: server/routes.go of Ollama 0.24.0. The oldest release that a site may run has
them all (0.14.0, `platforms.OLLAMA_FIRST_ZSTD`)."""
BODY_TIMEOUT_S = 120
BODIES_LIMIT = 8
"""A worker holds as many bytes of requests as so many of the largest."""
RETRIES = 2


def guard_config(plan: Plan) -> dict[str, object]:
    """/etc/flexi/guard.json of the gateway."""
    gateway = plan.gateway
    return {
        "inner": gateway.inner_socket,
        "ledger": gateway.ledger.socket,
        "body_limit_bytes": gateway.body_limit_bytes,
        "body_timeout_s": BODY_TIMEOUT_S,
        "bodies_limit_bytes": BODIES_LIMIT * gateway.body_limit_bytes,
        "retries": RETRIES,
        "paths": list(PATHS),
        "models": {
            name: {
                "name": backend.model,
                "backend": backend.name,
                "show": backend.show_name,
                "context": backend.context,
                "embedding": backend.embedding,
            }
            for backend in gateway.backends
            for name in (*backend.names, *backend.aliases)
        },
        "classes": {rules.name: _class(rules, gateway) for rules in gateway.classes},
        "hosts": {instance.group: instance.host for instance in plan.instances},
        "max_answer_tokens": gateway.max_answer_tokens,
    }


def _class(rules: ClassPlan, gateway: GatewayPlan) -> dict[str, object]:
    known = {name: backend.model for backend in gateway.backends for name in backend.names}
    models = [EVERYTHING] if rules.models is None else [known[name.lower()] for name in rules.models]
    options = {"any": [EVERYTHING], "fixed": []}.get(rules.options) if isinstance(rules.options, str) else rules.options
    found: dict[str, object] = {"models": sorted(set(models)), "options": list(options or [])}
    if rules.max_answer_tokens is not None:
        found["max_answer_tokens"] = rules.max_answer_tokens
    return found
