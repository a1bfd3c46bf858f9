"""Model names as Ollama compares them: case does not matter, and no tag means `latest`."""

from __future__ import annotations


def full_name(name: str) -> str:
    """The spelling for comparisons: `Mistral` -> `mistral:latest`. A port in a registry's address is not a tag."""
    lowered = name.lower()
    return lowered if ":" in lowered.rsplit("/", 1)[-1] else f"{lowered}:latest"


def namespace(name: str) -> str:
    """The part before the model's own name, which /v1/models calls the owner: `library` where none is said."""
    parts = name.split("/")
    return parts[-2] if len(parts) > 1 else "library"
