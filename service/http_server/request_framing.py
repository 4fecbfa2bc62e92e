"""Rules for heads that the parser does not enforce: one that two servers could read differently is refused.

A proxy in front of us that reads a request otherwise would forward one request and we would serve two
(request smuggling, RFC 9112, 11.2).
"""

from typing import NoReturn

Headers = list[tuple[bytes, bytes]]

_VERSIONS = frozenset({"1.0", "1.1"})
_UPGRADE_FIELDS = frozenset({b"connection", b"upgrade", b"http2-settings"})
_MAX_LENGTH_DIGITS = 20
_BODY_FIELDS = frozenset({b"content-length", b"transfer-encoding"})


class RequestRefusedError(Exception):
    """Ends the parsing of a request; httptools raises its own error with this one as the context."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def refuse(code: str, detail: str) -> NoReturn:
    """Raise RequestRefusedError."""
    raise RequestRefusedError(code, detail)


def check_framing(version: str, method: bytes, headers: Headers) -> None:
    """Raise RequestRefusedError for a head that is not plain HTTP/1.1."""
    if version not in _VERSIONS or method == b"CONNECT":
        refuse("invalid_request", "HTTP/1.1 is spoken here, and there are no tunnels")
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length" and len(value) > _MAX_LENGTH_DIGITS:
            # Zeros in front: the parser skips any number of them, and `int` does not.
            refuse("invalid_request", f"a Content-Length has {_MAX_LENGTH_DIGITS} digits at most")
        elif name == b"transfer-encoding" and (value.lower() != b"chunked" or version == "1.0"):
            refuse("invalid_request", "the only Transfer-Encoding taken is `chunked`, in HTTP/1.1")
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        refuse("invalid_request", "a request has one Host")


def announces_body(headers: Headers) -> bool:
    """Whether a body follows this head."""
    return any(name in _BODY_FIELDS for name, _ in headers)


def head_without_upgrade(method: bytes, url: bytes, headers: Headers) -> bytes:
    """Return the head without its offer of another protocol, such as the h2c that Java's client offers.

    A server that declines the offer answers in HTTP/1.1 (RFC 9110, 7.8).
    """
    head = [method, b" ", url, b" HTTP/1.1\r\n"]
    for name, value in headers:
        if name not in _UPGRADE_FIELDS:
            head += [name, b": ", value, b"\r\n"]
        elif name == b"connection" and b"close" in value.lower():
            head.append(b"connection: close\r\n")
    return b"".join([*head, b"\r\n"])
