"""Whose a request for a model is: the gateway gets to know an account's id, so that it can be fair to people.

Open WebUI puts headers of ours on what it asks an Ollama, with the id in the place of `{{USER_ID}}`
(get_headers_and_cookies and parse_custom_headers in open_webui/utils/headers.py, 0.12.3 and 0.12.4). What it has for
that purpose itself (ENABLE_FORWARD_USER_INFO_HEADERS) would send name, mail address and role as well. What it sends to
have texts indexed or looked up carries neither (open_webui/retrieval/utils.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, MutableMapping
from types import SimpleNamespace
from typing import Any

_ID = "{{USER_ID}}"


def name_people(environment: MutableMapping[str, str], header: str) -> None:
    """Have Open WebUI, which reads `environment` later, send the id in `header` wherever it sends the gateway's key."""
    connections = json.loads(environment["OLLAMA_API_CONFIGS"])
    for connection in connections.values():
        connection["headers"] = {header: _ID}
    environment["OLLAMA_API_CONFIGS"] = json.dumps(connections)


def check_names(parse_custom_headers: Callable[..., Mapping[str, Any]], header: str) -> None:
    """RuntimeError where Open WebUI's function of that name does not put the id there."""
    somebody = SimpleNamespace(id="an-id", name="", email="", role="")
    if parse_custom_headers({header: _ID}, somebody) != {header: "an-id"}:
        raise RuntimeError("this release of Open WebUI does not say whose a request is")
