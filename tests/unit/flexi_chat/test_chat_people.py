"""What the chat tells the gateway of its people."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from flexi_chat.gate.people import check_names, name_people

HEADER = "X-Flexi-Person"


def theirs(headers: dict[str, str], user: Any) -> dict[str, str]:
    """What of parse_custom_headers (open_webui/utils/headers.py, 0.12.4) matters here."""
    values = {"{{USER_ID}}": user.id, "{{USER_NAME}}": user.name, "{{USER_EMAIL}}": user.email}
    found = {}
    for name, value in headers.items():
        for token, said in values.items():
            value = value.replace(token, said)
        found[name] = value
    return found


def test_the_gateway_is_told_the_id_and_nothing_else_of_a_person() -> None:
    environment = {"OLLAMA_API_CONFIGS": '{"0": {"enable": true, "key": "secret"}}', "HOME": "/"}
    name_people(environment, HEADER)
    connection = json.loads(environment["OLLAMA_API_CONFIGS"])["0"]
    assert (connection["key"], connection["enable"]) == ("secret", True)
    somebody = SimpleNamespace(id="an-id", name="Ada Lovelace", email="ada@example.edu", role="user")
    assert theirs(connection["headers"], somebody) == {HEADER: "an-id"}


def test_a_release_that_does_not_say_whose_a_request_is_does_not_start() -> None:
    check_names(theirs, HEADER)
    with pytest.raises(RuntimeError, match="whose a request is"):
        check_names(lambda headers, user: headers, HEADER)
