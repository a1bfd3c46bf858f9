"""Moodle's AI providers, actions and plugins by the names that a site file uses."""

from __future__ import annotations

from typing import Literal

MoodleProvider = Literal["openai", "ollama"]
MoodlePlugin = Literal["local_ai_manager", "block_ai_chat", "qbank_questiongen", "mod_openchat"]
MoodleActionName = Literal["generate_text", "summarise_text", "explain_text"]
