"""HTTP that is broken, or sound but meant to lead the gateway and what is behind it to different conclusions.

What is known to part servers from each other: RFC 9112, sections 2.2, 5.1, 6.1, 6.3, 7.1 and 11.2 (request smuggling).
"""

from __future__ import annotations

import json

from fuzz.bodies import ALLOWED, FORBIDDEN
from fuzz.wire import Attempt
from hypothesis import strategies as st

_GOOD = json.dumps({"model": ALLOWED, "prompt": ""}).encode()
_BAD = json.dumps({"model": FORBIDDEN[0], "prompt": "", "keep_alive": 0}).encode()
_SMUGGLED = b"DELETE /api/delete HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(_BAD), _BAD)

PATHS = (
    *("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs/sha256:0", "/api/me"),
    *("/api/pull/", "//api/pull", "/api//pull", "/api/./pull", "/api/tags/../pull", "/api/%70ull", "/api%2fpull"),
    *("/API/PULL", "/api/pull?x", "/api/pull;x", "/api/pull%00", "/api/pull#x", "/api/tags%2f..%2fpull"),
    *("/v1/../api/pull", "/v1/models/../../api/pull", "/v1/models/%2e%2e", "/v1/chat/completions/x", "/v1"),
    *("/metrics", "/stats", "/haproxy?stats", "/.env", "/etc/passwd", "*", "", "/" + "a" * 9000, "/\xff"),
    *("/api/generate", "/api/generate/", "/api/generate?a=b", "/api/chat%3f", "/api/generate\t"),
    *("http://localhost/api/pull", "http://10.87.0.11:11434/api/tags"),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "post", "PROPFIND", "G\xcbT")
HEADERS = (
    b"X-Flexi-Backend: m-gemma-7b",
    b"X-Flexi-Consumer: admin\r\nX-Flexi-Class: staff\r\nX-Flexi-Id: 1",
    b"x-flexi-model: gemma:7b\r\nX-FLEXI-PRIORITY: -1",
    b"X_Flexi_Consumer: admin",
    b"Host: localhost",
    b"X-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1",
    b"Expect: 100-continue",
    b"Expect: 200-maybe",
    b"Connection: X-Flexi-Consumer, Authorization, Host",
    b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    b"Content-Encoding: gzip",
    b"Content-Encoding: zstd",
    b"X-HTTP-Method-Override: DELETE",
    b"Origin: http://evil.example",
    b"Range: bytes=0-1",
    b"X: " + b"a" * 20_000,
    b"\r\n".join(b"X-%d: y" % number for number in range(150)),
    b" folded: line",
    b"No colon here",
    b"Space : before",
    b"Nul: a\0b",
    b"Bare: a\nInjected: b",
    b": empty",
    b"X-Latin: \xe9\xff",
)
FRAMINGS = (
    b"Content-Length: %d\r\n\r\n%s" % (len(_GOOD), _GOOD),
    b"Content-Length: 0\r\n\r\n",
    b"Content-Length: -1\r\n\r\n" + _GOOD,
    b"Content-Length: +%d\r\n\r\n%s" % (len(_GOOD), _GOOD),
    b"Content-Length: 99999999999999999999\r\n\r\n" + _GOOD,
    b"Content-Length: 0x1f\r\n\r\n" + _GOOD,
    b"Content-Length: %d, %d\r\n\r\n%s" % (len(_GOOD), len(_GOOD), _GOOD),
    b"Content-Length: %d\r\nContent-Length: %d\r\n\r\n%s%s" % (len(_GOOD), len(_GOOD) + 9, _GOOD, _SMUGGLED),
    b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s" % (len(_SMUGGLED) + 5, _SMUGGLED),
    b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n%x\r\n%s\r\n0\r\n\r\n%s" % (len(_GOOD), _GOOD, _SMUGGLED),
    b"Transfer-Encoding: xchunked\r\nContent-Length: %d\r\n\r\n%s" % (len(_GOOD), _GOOD),
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    b"Transfer-Encoding: gzip, chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(_GOOD), _GOOD),
    b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + _GOOD,
    b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + _GOOD,
    b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n" + _GOOD,
    b'Transfer-Encoding: chunked\r\n\r\n%x;ext="a\nb"\r\n%s\r\n0\r\n\r\n' % (len(_GOOD), _GOOD),
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%sXX0\r\n\r\n" % (len(_GOOD), _GOOD),
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nAuthorization: Bearer x\r\nX-Flexi-Consumer: admin\r\n\r\n"
    % (len(_GOOD), _GOOD),
    b"\r\n" + _SMUGGLED,
)
VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/9", "http/1.1", "HTTP", "")
UNFINISHED = (
    b"POST /api/generate HTTP/1.1\r\nHost: flexi\r\nContent-Length: 1000\r\n\r\n{",
    b"POST /api/generate HTTP/1.1\r\nHost: flexi\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    b"POST /api/gen",
    b"GET /api/tags HTTP/1.1\r\nHost: fl",
)
OTHER_PROTOCOLS = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(506),
    b"SSH-2.0-x\r\n",
    b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nGET /api/tags HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"\0" * 300,
    b"\r\n\r\n\r\n",
    b"GET\r\n\r\n",
)


@st.composite
def attempts(draw: st.DrawFn, key: str) -> Attempt:
    kind = draw(st.integers(0, 11))
    if kind == 0:
        return Attempt("", draw(st.sampled_from(OTHER_PROTOCOLS)), sound=False, patience_s=0.2)
    authorization = f"Authorization: Bearer {key}\r\n".encode()
    if kind == 1:
        raw = draw(st.sampled_from(UNFINISHED)).replace(b"Host: flexi\r\n", b"Host: flexi\r\n" + authorization)
        return Attempt("", raw, sound=False, patience_s=0.2)
    if kind == 2:
        return Attempt("", draw(st.binary(max_size=300)) + b"\r\n\r\n", sound=False, patience_s=0.2)
    method, path, version, framing = "POST", "/api/generate", "HTTP/1.1", FRAMINGS[0]
    extra: list[bytes] = []
    # Mostly one thing is wrong: with many, the first hides the others.
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        match draw(st.integers(0, 4)):
            case 0:
                path = draw(st.sampled_from(PATHS))
            case 1:
                method = draw(st.sampled_from(METHODS))
            case 2:
                version = draw(st.sampled_from(VERSIONS))
            case 3:
                framing = draw(st.sampled_from(FRAMINGS))
            case 4:
                extra.append(draw(st.sampled_from(HEADERS)))
    line = f"{method} {path} {version}\r\nHost: flexi\r\n".encode("latin-1")
    head = line + authorization + b"".join(header + b"\r\n" for header in extra)
    return Attempt(path, head + b"Connection: close\r\n" + framing, sound=False, patience_s=2)
