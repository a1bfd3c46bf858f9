"""What the guard makes of a body: one reading of it, or none.

What Ollama reads differently is Go's encoding/json: the last of two equal keys (decode.go, object), a struct's keys
without case and with Unicode's folding (fold.go, foldName), nothing after the first value (Decoder.Decode), at most
10,000 levels (scanner.go, maxNestingDepth).
"""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexi_host.guard.body import canonical, parse
from flexi_host.guard.dialect import Refusal


def refused(body: bytes) -> str:
    with pytest.raises(Refusal) as caught:
        canonical(parse(body))
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    return caught.value.message


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"model":"a","model":"b"}', "stands in it twice"),
        (b'{"model":"a","MODEL":"b"}', "stands in it twice"),
        (b'{"MODEL":"a","model":"b"}', "stands in it twice"),
        ('{"options":{},"option\u017f":{"num_ctx":1}}'.encode(), "stands in it twice"),
        ('{"keep_alive":1,"\u212aeep_alive":0}'.encode(), "stands in it twice"),
        (b'{"model":"a","options":{"num_ctx":1,"num_ctx":2}}', "stands in it twice"),
        (b'{"mod\\u0065l":"a","model":"b"}', "stands in it twice"),
        (b'\xef\xbb\xbf{"model":"a"}', "byte order mark"),
        ('{"model":"a"}'.encode("utf-16"), "not UTF-8"),
        ('{"model":"a"}'.encode("utf-16-le"), "at character 1"),
        (b'{"model":"a\xff"}', "not UTF-8 (byte 11)"),
        (b'{"model":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"model":"a"}\x00', "Extra data"),
        (b'{"model":"a\x00b"}', "Invalid control character"),
        (b'{"model":"a"}{"model":"b"}', "Extra data"),
        (b'{"model":"a"} x', "Extra data"),
        (b"", "Expecting value"),
        (b"null", "must be an object"),
        (b'["model"]', "must be an object"),
        (b'"model"', "must be an object"),
        (b'{"model":"a","x":NaN}', "NaN is no number"),
        (b'{"model":"a","x":[-Infinity]}', "-Infinity is no number"),
        (b'{"model":"a","x":1e999}', "too large"),
        (b'{"model":"a","x":' + b"9" * 1001 + b"}", "too large"),
        (b'{"model":"a","x":' + b"9" * 100_000 + b"}", "too large"),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"x":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b"{'model':'a'}", "Expecting property name"),
        (b'{"model":"a",}', "at character"),
        (b'{"model":"a" /* b */}', "at character"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(body: bytes, why: str) -> None:
    assert why in refused(body)


def test_a_message_never_repeats_what_was_said() -> None:
    for body in (b'{"prompt":"canary" canary}', b'{"prompt":"canary', b'{"prompt":"canary",canary:1}', b"canary"):
        assert "canary" not in refused(body)


def test_fields_are_found_without_case_as_ollama_finds_them() -> None:
    body = '{"Model":"a","Option\u017f":{"num_ctx":1},"\u212aEEP_ALIVE":0,"Messages":[{"Role":"user"}]}'.encode()
    assert parse(body) == {"model": "a", "options": {"num_ctx": 1}, "keep_alive": 0, "messages": [{"Role": "user"}]}


def test_what_is_the_clients_own_keeps_its_spelling() -> None:
    """A schema's properties may differ in case only."""
    schema = {"type": "object", "properties": {"Id": {"type": "string"}, "id": {"type": "string"}, "ID": {}}}
    body = json.dumps({"model": "a", "format": schema}).encode()
    assert json.loads(canonical(parse(body)))["format"] == schema


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('{"a": 1.0, "b": -0.5e3, "c": 12345678901234567890}', '{"a":1.0,"b":-500.0,"c":12345678901234567890}'),
        ('{"a": "\\u00e4\\u0000\\n</", "b": "ä"}', '{"a":"ä\\u0000\\n</","b":"ä"}'),
        ('{"a": "\\ud83d\\ude00"}', '{"a":"😀"}'),
        ('{"a": "\\ud83d"}', '{"a":"\\ud83d"}'),
        ('{"a": [true, false, null, {}, []]}', '{"a":[true,false,null,{},[]]}'),
    ],
)
def test_what_was_read_is_what_is_written(text: str, written: str) -> None:
    assert canonical(parse(text.encode())).decode() == written


def test_a_level_of_nesting_that_people_use_passes() -> None:
    body = b'{"x":' * 60 + b"1" + b"}" * 60
    assert canonical(parse(body)) == body


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), values, max_size=6), st.booleans())
def test_every_object_comes_through_as_it_is(fields: dict[str, object], escaped: bool) -> None:
    try:
        body = json.dumps(fields, ensure_ascii=escaped).encode()
    except UnicodeEncodeError:
        body = json.dumps(fields).encode()
    assert json.loads(canonical(parse(body))) == fields


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_bring_it_down(body: bytes) -> None:
    with contextlib.suppress(Refusal):
        assert isinstance(parse(body), dict)
