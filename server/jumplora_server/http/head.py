"""A request's head, from bytes to `Head`. What two parsers may read differently is refused.

The grammar is that of RFC 9110 and 9112, without what they only tolerate (bare line feeds, folded
lines). Every fault is a 4xx that says what was wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import unquote

from jumplora_server.http.limits import MAX_FIELDS, MAX_HEAD_BYTES, MAX_TARGET_BYTES
from jumplora_server.http.refusal import Refused

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]"
_LINE = re.compile(rb"(%b{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])" % _TOKEN)
_FIELD = re.compile(rb"%b++:%b*+" % (_TOKEN, _VALUE))
_HEAD = re.compile(rb"%b\r\n((?:%b\r\n)*+)\r\n" % (_LINE.pattern, _FIELD.pattern))
_END = re.compile(rb"\n\r?\n")
_TOKEN_BYTE = re.compile(_TOKEN)
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_ENCODED_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]*)([/?].*)?", re.IGNORECASE)
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~%!$&'()*+,;=-]*)(?::[0-9]{0,5})?", re.ASCII
)
_LENGTH = re.compile(rb"[0-9]{1,18}")

Fields = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Head:
    """`fields` have names in lower case. `length` of the body: None where it comes in chunks.

    `path` is decoded, `raw_path` and `query` are as they came, without authority.
    """

    method: str
    path: str
    raw_path: bytes
    query: bytes
    version: str
    fields: Fields
    length: int | None
    is_last: bool  # the client wants the connection closed, or cannot keep it
    waits_for_continue: bool


def take_head(received: bytearray, searched: int) -> Head | None:
    """Cut the head off the front of what was received; None while it is not complete.

    `searched` bytes were looked at before. Raises Refused, as early as possible.
    """
    if searched <= 1:
        while received[:2] == b"\r\n":  # empty lines before a request are allowed
            del received[:2]
        if not received or received == b"\r":
            return None
        _check_start(received[0])
    # An end made of bare line feeds ends it too, to be refused at once.
    match = _END.search(received, max(0, searched - 2))
    if match is None and len(received) <= MAX_HEAD_BYTES:
        return None
    if match is None or match.end() > MAX_HEAD_BYTES:
        if received.find(b"\n", 0, MAX_TARGET_BYTES) < 0:
            raise _target_too_long()
        raise Refused(
            431, "head_size", f"the head is too long; at most {MAX_HEAD_BYTES} bytes are allowed"
        )
    raw = bytes(received[: match.end()])
    del received[: match.end()]
    return parse_head(raw)


def parse_head(raw: bytes) -> Head:
    """The head in `raw`, which ends with its empty line. Raises Refused."""
    match = _HEAD.fullmatch(raw)
    if match is None:
        _explain(raw)
    method, target, minor, lines = match.groups()
    if len(target) > MAX_TARGET_BYTES:
        raise _target_too_long()
    fields = []
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        fields.append((name.lower(), value.strip(b" \t")))
    if len(fields) > MAX_FIELDS:
        raise Refused(
            431, "head_size", f"the head has {len(fields)} fields; at most {MAX_FIELDS} are allowed"
        )
    target = _origin_form(method, target, fields)
    raw_path, _, query = target.partition(b"?")
    path = raw_path.decode("ascii")
    if "%" in path:
        path = unquote(path)
        if _ENCODED_CONTROL.search(path):
            _refuse("the path has an encoded control character, which no route has")
    return _framed(method, path, raw_path, query, minor, fields)


def _target_too_long() -> Refused:
    return Refused(
        414, "head_size", f"the target is too long; at most {MAX_TARGET_BYTES} bytes are allowed"
    )


def _check_start(first: int) -> None:
    if first == 0x16:
        _refuse("this looks like TLS; the server speaks plain HTTP, so use http:// or a proxy")
    if _TOKEN_BYTE.match(bytes([first])) is None:
        _refuse(f"a request begins with its method, not with the byte 0x{first:02x}")


def _framed(
    method: bytes, path: str, raw_path: bytes, query: bytes, minor: bytes, fields: Fields
) -> Head:
    lengths, codings, expected, hosts, connection = [], [], [], [], b""
    for name, value in fields:
        if name == b"host":
            hosts.append(value)
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
        elif name == b"expect":
            expected.append(value)
        elif name == b"connection":
            connection += b"," + value.lower()
    is_old = minor == b"0"
    _check_host(hosts, is_old)
    length = _body_length(lengths, codings, is_old)
    if expected and [value.lower() for value in expected] != [b"100-continue"]:
        given = b", ".join(expected).decode("latin-1")[:60]
        raise Refused(417, "head", f"expect: {given!r} is not known; 100-continue is allowed")
    options = {option.strip(b" \t") for option in connection.split(b",")} if connection else ()
    return Head(
        method.decode("ascii"),
        path,
        raw_path,
        query,
        "1.0" if is_old else "1.1",
        fields,
        length,
        is_last=is_old or b"close" in options,
        waits_for_continue=bool(expected) and not is_old and length != 0,
    )


def _body_length(lengths: list[bytes], codings: list[bytes], is_old: bool) -> int | None:
    if codings:
        if lengths:
            _refuse("content-length and transfer-encoding are both given; give one of them")
        if is_old:
            _refuse("transfer-encoding is not part of HTTP/1.0; give a content-length")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            given = b", ".join(codings).decode("latin-1")[:60]
            _refuse(f"transfer-encoding: {given!r} is not allowed; only chunked is")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1:
        _refuse(f"content-length is given {len(lengths)} times; give it once")
    if _LENGTH.fullmatch(lengths[0]) is None:
        given = lengths[0].decode("latin-1")[:60]
        _refuse(f"content-length: {given!r} is not a number of 1 to 18 digits")
    return int(lengths[0])


def _check_host(hosts: list[bytes], is_old: bool) -> None:
    if len(hosts) > 1:
        _refuse(f"host is given {len(hosts)} times; give it once")
    if not hosts and not is_old:
        _refuse("host is missing; HTTP/1.1 requires it")
    if hosts and _HOST.fullmatch(hosts[0]) is None:
        _refuse(f"host: {hosts[0].decode('latin-1')[:60]!r} is not a host with an optional port")


def _origin_form(method: bytes, target: bytes, fields: Fields) -> bytes:
    """The target without an authority, which takes the place of the host (RFC 9112, 3.2.2)."""
    if method == b"CONNECT":
        raise Refused(405, "head", "CONNECT is not allowed: this server is not a proxy")
    if b"#" in target:
        _refuse("the target has a fragment (#...), which clients keep to themselves")
    if target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not absolute[1]:
        _refuse(
            f"the target {target.decode('ascii')[:60]!r} is not allowed: it begins with / or with "
            "http:// and a host"
        )
    for index, (name, _) in enumerate(fields):
        if name == b"host":
            fields[index] = (name, absolute[1])
    rest = absolute[2] or b"/"
    return rest if rest[:1] == b"/" else b"/" + rest


def _explain(raw: bytes) -> NoReturn:
    """Say why `raw` is not a head."""
    control = _CONTROL.search(raw)
    if control is not None:
        _refuse(f"the head has the control character 0x{control[0][0]:02x}")
    if _BARE_LINE_FEED.search(raw):
        _refuse("a line of the head ends with a bare line feed; lines end with CR LF")
    line, *fields = raw[:-4].split(b"\r\n")
    if b"\r" in line or any(b"\r" in field for field in fields):
        _refuse("the head has a carriage return that does not end a line")
    if _LINE.fullmatch(line) is None:
        _explain_line(line)
    for field in fields:
        if field[:1] in (b" ", b"\t"):
            _refuse("a field of the head is folded over several lines; give it on one")
        if _FIELD.fullmatch(field) is None:
            given = field.decode("latin-1")[:60]
            _refuse(f"the line {given!r} of the head is not a field: name, colon, value")
    _refuse("the head cannot be read")


def _explain_line(line: bytes) -> NoReturn:
    words = line.split(b" ")
    if any(byte > 0x7E for byte in line):
        _refuse("the request line is not ASCII; write other characters of the target as %XX")
    if len(words) == 3 and words[2].startswith(b"HTTP/"):
        version = words[2].decode("ascii")[:20]
        if version not in ("HTTP/1.0", "HTTP/1.1"):
            _refuse(f"{version} is not spoken here; HTTP/1.1 and HTTP/1.0 are")
        _refuse("the method is not one to 32 letters, digits and signs of a token")
    _refuse("the request line is not a method, a target and HTTP/1.1, with one blank between them")


def _refuse(message: str) -> NoReturn:
    raise Refused(400, "head", message)
