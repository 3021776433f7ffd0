"""What a JSON body may be: read as JSON says, refused where it is ambiguous or too much."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.api.route import MAX_MARKS, parse_body
from serving import ADMIN_KEY, connected, make_site

MIB = 1 << 20

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values, st.sampled_from([None, 1]), st.booleans())
def test_what_is_json_is_read_as_it_is(value: Any, indent: int | None, ascii_only: bool) -> None:
    assert parse_body(json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()) == value


@given(st.text(alphabet='[]{},:"\\x \n', max_size=30))
def test_what_is_none_is_refused_as_json_does(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"\S"):
            parse_body(text.encode())
    else:
        assert parse_body(text.encode()) == expected


@given(st.text(min_size=1, max_size=100), st.lists(st.sampled_from(["list", "object"]), max_size=8))
def test_a_key_that_comes_twice_is_named_at_any_depth(key: str, around: list[str]) -> None:
    name = json.dumps(key)
    body = f"{{{name}: 1, {name}: 2}}"
    for kind in around:
        body = f"[0, {body}]" if kind == "list" else f'{{"a": {body}}}'
    with pytest.raises(ValueError, match="appears twice in one object") as caught:
        parse_body(body.encode())
    assert repr(key[:80]) in str(caught.value)


def test_marks_inside_of_texts_do_not_count() -> None:
    text = '[]{},:"\\' * MAX_MARKS
    assert parse_body(json.dumps({"text": text}).encode()) == {"text": text}


def test_the_largest_list_that_is_read() -> None:
    assert len(parse_body(json.dumps(["x"] * (MAX_MARKS - 1)).encode())) == MAX_MARKS - 1
    with pytest.raises(ValueError, match=f"more than {MAX_MARKS}"):
        parse_body(json.dumps(["x"] * MAX_MARKS).encode())


BODIES: dict[str, tuple[bytes, str]] = {
    "unknown keys": (json.dumps({f"k{i}": 0 for i in range(80_000)}).encode(), "more than 8192"),
    "as many as are read": (
        json.dumps({f"k{i}": 0 for i in range(4000)}).encode(),
        "unknown field 'k0', 'k1', 'k2', 'k3', 'k4'; allowed are",
    ),
    "items": (b'{"inputs": [' + b"0," * 300_000 + b"0]}", "more than 8192"),
    "wrong items": (b'{"inputs": [' + b"0," * 8000 + b"0]}", "item 0 must be a string"),
    "wrong stops": (
        b'{"inputs": "x", "parameters": {"stop": [' + b"0," * 8000 + b"0]}}",
        "parameters.stop",
    ),
    "arrays": (b"[" * 500_000, "nested deeper than 64"),
    "objects": (b'{"a":' * 200_000, "nested deeper than 64"),
    "closed brackets": (b"]" * MIB, "more than 8192"),
    "colons": (b":" * MIB, "more than 8192"),
    "quotes": (b'"' * MIB, "not valid JSON"),
    "white space": (b" " * MIB, "not valid JSON"),
    "a long number": (b'{"inputs": ' + b"9" * (MIB - 20) + b"}", "larger than any 64-bit number"),
    "5,000 digits": (b'{"inputs": ' + b"9" * 5000 + b"}", "larger than any 64-bit number"),
    "1e999": (b'{"inputs": 1e999}', "larger than any 64-bit number"),
    "NaN": (b'{"inputs": NaN}', "NaN is not a JSON number"),
    "Infinity": (b'{"inputs": -Infinity}', "-Infinity is not a JSON number"),
    "a long key": (b'{"' + b"k" * (MIB - 20) + b'": 1}', "unknown field 'kkk"),
    "a long wrong value": (
        b'{"inputs": "x", "parameters": "' + b"z" * (MIB - 100) + b'"}',
        "parameters: ",
    ),
    "half a surrogate pair in a key": (b'{"\\ud800": 1}', "unknown field '\\ud800'"),
    "a key twice": (b'{"inputs": "x", "inputs": "y"}', "the key 'inputs' appears twice"),
    "a key twice inside": (
        b'{"inputs": "x", "parameters": {"top_k": 1, "top_k": 1}}',
        "the key 'top_k' appears twice",
    ),
    "a key twice, escaped": (b'{"inputs": "x", "\\u0069nputs": "y"}', "'inputs' appears twice"),
    "not UTF-8": (b'{"inputs": "\xff"}', "not UTF-8: the byte at 12"),
    "cut within a character": (b'{"inputs": "\xc3', "not UTF-8: the byte at 12"),
    "UTF-8's mark": (b'\xef\xbb\xbf{"inputs": "x"}', "with a byte order mark"),
    "UTF-16": ('{"inputs": "x"}'.encode("utf-16"), "must be UTF-8"),
    "UTF-16 without mark": ('{"inputs": "x"}'.encode("utf-16-le"), "must be UTF-8"),
    "UTF-32": ('{"inputs": "x"}'.encode("utf-32"), "must be UTF-8"),
}
PATHS = (
    "/generate",
    "/generate_stream",
    "/v1/tasks/agnews/generate",
    "/v1/tasks/agnews/generate_stream",
    "/v1/adapters/agnews/rollback",
    "/v1/adapters/agnews/pin",
)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    site = make_site(tmp_path_factory.mktemp("site"))
    with connected(site, headers={"authorization": f"Bearer {ADMIN_KEY}"}) as http:
        site.publish("agnews")
        yield http


@pytest.mark.parametrize("case", BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_refused_is_refused_shortly(
    http: httpx.Client, case: tuple[bytes, str]
) -> None:
    body, words = case
    headers = {"content-type": "application/json"}
    answer = http.post("/generate", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation"), answer.text
    assert words in answer.json()["error"]
    assert len(answer.content) < 1000


@pytest.mark.parametrize("path", PATHS)
def test_all_routes_read_their_body_so(http: httpx.Client, path: str) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    for body in (b'{"a": 1, "a": 2}', b"[" * 100_000, b'{"a": "\xff"}'):
        answer = http.post(path, content=body, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["error"].startswith("the body is not valid JSON: "), answer.text
