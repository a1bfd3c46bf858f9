"""Reserved names of consumers and classes, and the priorities of classes."""

from __future__ import annotations

from typing import Literal

CHAT_CONSUMER = "flexi-chat"
"""The chat's name at the gateway, whose key it makes for itself. Its class has the same name."""

Priority = Literal["interactive", "batch"]
DEFAULT_CLASS = "default"
"""The class of keys that name no other."""
DEFAULT_MAX_ANSWER_TOKENS = 16_384
"""Some 12,000 words or 18 minutes of a model that writes 15 tokens a second: more than an answer that people read, room
for a model that thinks first, and an end for one that repeats itself."""
ANONYMOUS_CLASS = "anonymous"
"""The class of requests without a key, on paths that need none."""
HEALTH_CONSUMER = "flexi-health"
"""Whose key the gateway makes for its own health checks. Its class has the same name and no bounds."""
