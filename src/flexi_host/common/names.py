"""Model names as Ollama compares them: case does not matter, and what is left out has a default (types/model/name.go,
ParseName and DefaultName, 0.24.0 and 0.32.0).
"""

from __future__ import annotations

_REGISTRY = "registry.ollama.ai"
_LIBRARY = "library"


def short_name(name: str) -> str:
    """In small letters, without a registry and namespace that are meant anyway: `library/Mistral` -> `mistral`."""
    parts = name.lower().split("/")
    if len(parts) == 3 and parts[0] == _REGISTRY:
        del parts[0]
    if len(parts) == 2 and parts[0] == _LIBRARY:
        del parts[0]
    return "/".join(parts)


def full_name(name: str) -> str:
    """The spelling for comparisons: `Mistral` -> `mistral:latest`. A port in a registry's address is not a tag."""
    lowered = short_name(name)
    return lowered if ":" in lowered.rsplit("/", 1)[-1] else f"{lowered}:latest"


def namespace(name: str) -> str:
    """The part before the model's own name, which /v1/models calls the owner: `library` where none is said."""
    parts = name.split("/")
    return parts[-2] if len(parts) > 1 else "library"
