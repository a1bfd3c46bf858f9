"""Open WebUI's settings. It takes them from its environment alone (ENABLE_PERSISTENT_CONFIG=false), so that what its
admin page changes is gone with the next start.

Names and meanings: open_webui/env.py and open_webui/config.py of 0.12.4.
"""

from __future__ import annotations

from flexi.plan.build.chat_database import database_environment
from flexi.plan.build.chat_sign_in import sign_in_settings
from flexi.plan.model.chat import PERSON_HEADER, ChatPlan

DATA = "/var/lib/flexi-chat"
PROGRAMS = "/opt/flexi/flexi-chat.pyz"
"""What of flexi runs there, in one file (flexi.configs.chat_package)."""
ADMIN = "flexi@localhost"
"""Mail address of the admin account of Open WebUI that flexi itself uses, and no person."""


def chat_environment(plan: ChatPlan, gateway_url: str, proxies: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Name and value of each setting that is no secret. `proxies` are the addresses that HAProxy comes from."""
    return (
        *_service(plan, proxies),
        *_page(plan),
        *sign_in_settings(plan),
        *_models(plan, gateway_url),
        *database_environment(plan),
        *_privacy(plan),
        *_QUIET,
        *_FEATURES,
    )


def _service(plan: ChatPlan, proxies: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return (
        ("FLEXI_CHAT_ADDRESS", plan.inside[0]),
        ("FLEXI_CHAT_PORT", str(plan.inside[1])),
        ("FLEXI_CHAT_WORKERS", str(plan.workers)),
        ("FLEXI_CHAT_PROXIES", ",".join(proxies)),
        ("FLEXI_PERSON_HEADER", PERSON_HEADER),
        ("PYTHONPATH", PROGRAMS),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("HOME", DATA),
        ("DATA_DIR", DATA),
        # Its own is among its programs, which it must not change.
        ("STATIC_DIR", f"{DATA}/static"),
        # It then takes its pages from its own package.
        ("FROM_INIT_PY", "true"),
        ("ENV", "prod"),
        ("ENABLE_PERSISTENT_CONFIG", "false"),
        ("ENABLE_OAUTH_PERSISTENT_CONFIG", "false"),
        # What was said is on the disk when the page shows it as stored, also through a power cut.
        ("DATABASE_SQLITE_PRAGMA_SYNCHRONOUS", "FULL"),
        ("GLOBAL_LOG_LEVEL", "WARNING"),
    )


def _page(plan: ChatPlan) -> tuple[tuple[str, str], ...]:
    secure = "true" if plan.scheme == "https" else "false"
    return (
        ("WEBUI_URL", plan.url),
        ("WEBUI_NAME", plan.title),
        ("CORS_ALLOW_ORIGIN", plan.url),
        ("WEBUI_SESSION_COOKIE_SECURE", secure),
        ("WEBUI_AUTH_COOKIE_SECURE", secure),
        ("JWT_EXPIRES_IN", "1w"),
        ("WEBUI_ADMIN_EMAIL", ADMIN),
        ("WEBUI_ADMIN_NAME", "flexi"),
        ("ENABLE_SIGNUP", "false"),
        ("DEFAULT_USER_ROLE", "user"),
        ("ENABLE_API_KEYS", "false"),
    )


def _models(plan: ChatPlan, gateway_url: str) -> tuple[tuple[str, str], ...]:
    found = [
        ("ENABLE_OLLAMA_API", "true"),
        ("OLLAMA_BASE_URLS", gateway_url),
        ("ENABLE_OPENAI_API", "false"),
        ("DEFAULT_MODELS", plan.default_model),
        ("TASK_MODEL", plan.task_model),
        # Its own default sends tools along, which Ollama refuses for models without that capability.
        ("DEFAULT_MODEL_PARAMS", '{"function_calling": "legacy"}'),
    ]
    if plan.embedding_model:
        found += [
            ("RAG_EMBEDDING_ENGINE", "ollama"),
            ("RAG_EMBEDDING_MODEL", plan.embedding_model),
            ("RAG_OLLAMA_BASE_URL", gateway_url),
            # By default it asks for each piece of a text by itself, and for all of them at once.
            ("RAG_EMBEDDING_BATCH_SIZE", "32"),
            ("RAG_EMBEDDING_CONCURRENT_REQUESTS", "4"),
        ]
    else:
        found.append(("BYPASS_EMBEDDING_AND_RETRIEVAL", "true"))
    return tuple(found)


def _privacy(plan: ChatPlan) -> tuple[tuple[str, str], ...]:
    read = "true" if plan.admins_read_chats else "false"
    return (
        ("FLEXI_RETENTION_DAYS", str(plan.retention_days or "")),
        ("ENABLE_ADMIN_CHAT_ACCESS", read),
        ("ENABLE_ADMIN_EXPORT", read),
        # A rating carries the chat that it is about to the admins.
        ("ENABLE_MESSAGE_RATING", read),
        ("ENABLE_ADMIN_ANALYTICS", "false"),
        ("ENABLE_AUDIT_LOGS_FILE", "false"),
        ("AUDIT_LOG_LEVEL", "NONE"),
    )


_QUIET = (
    ("OFFLINE_MODE", "true"),
    ("ENABLE_VERSION_UPDATE_CHECK", "false"),
    ("HF_HUB_OFFLINE", "1"),
    ("ANONYMIZED_TELEMETRY", "false"),
    ("DO_NOT_TRACK", "true"),
    ("SCARF_NO_ANALYTICS", "true"),
    ("ENABLE_OTEL", "false"),
    ("ENABLE_COMMUNITY_SHARING", "false"),
    ("ENABLE_DIRECT_CONNECTIONS", "false"),
    ("ENABLE_DIRECT_INTEGRATIONS", "false"),
    ("ENABLE_PROFILE_IMAGE_URL_FORWARDING", "false"),
    ("ENABLE_WEB_SEARCH", "false"),
    ("ENABLE_RAG_LOCAL_WEB_FETCH", "false"),
    ("USER_PERMISSIONS_CHAT_WEB_UPLOAD", "false"),
    ("USER_PERMISSIONS_FEATURES_WEB_SEARCH", "false"),
    ("ENABLE_USER_WEBHOOKS", "false"),
)
"""Nothing is asked of machines outside."""

_FEATURES = (
    # Programs that an admin of the page could put in, and that would run on the chat's host.
    ("ENABLE_PLUGINS", "false"),
    ("ENABLE_PIP_INSTALL_FRONTMATTER_REQUIREMENTS", "false"),
    ("ENABLE_CODE_EXECUTION", "false"),
    ("ENABLE_CODE_INTERPRETER", "false"),
    ("USER_PERMISSIONS_FEATURES_CODE_INTERPRETER", "false"),
    ("ENABLE_IMAGE_GENERATION", "false"),
    ("ENABLE_IMAGE_EDIT", "false"),
    ("USER_PERMISSIONS_FEATURES_IMAGE_GENERATION", "false"),
    # Speech needs models that are not there; browsers send it to their makers.
    ("USER_PERMISSIONS_CHAT_STT", "false"),
    ("USER_PERMISSIONS_CHAT_TTS", "false"),
    ("USER_PERMISSIONS_CHAT_CALL", "false"),
    # What it would remember of a person beside the chats.
    ("ENABLE_MEMORIES", "false"),
    ("USER_PERMISSIONS_FEATURES_MEMORIES", "false"),
    ("ENABLE_USER_STATUS", "false"),
    ("ENABLE_PUBLIC_ACTIVE_USERS_COUNT", "false"),
    ("ENABLE_NOTES", "false"),
    ("ENABLE_CHANNELS", "false"),
    ("ENABLE_CALENDAR", "false"),
    ("ENABLE_AUTOMATIONS", "false"),
    ("ENABLE_EVALUATION_ARENA_MODELS", "false"),
    ("ENABLE_EASTER_EGGS", "false"),
)
"""What Open WebUI could do beside talking to models, and does not here."""


def environment_file(variables: tuple[tuple[str, str], ...]) -> str:
    """A file for systemd's `EnvironmentFile=` (systemd.exec(5): in double quotes, a backslash takes the meaning from
    `"`, `\\`, `` ` `` and `$`)."""
    lines = ["# Written by flexi from the site file; changes here are overwritten."]
    for name, value in variables:
        quoted = "".join(f"\\{sign}" if sign in '"\\`$' else sign for sign in value)
        lines.append(f'{name}="{quoted}"')
    return "\n".join(lines) + "\n"
