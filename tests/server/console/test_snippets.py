"""What the console copies as curl, Python and openai asks what was asked, whatever the text.

The code is run: by bash, and by this interpreter. A real server answers it, so that every field
that the code names is one that the server takes.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any
from unicodedata import category

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console_in_node import Console
from fakes import LIMITS
from jumplora_adapters.manifest import PromptSpec
from serving import ADMIN_KEY, make_site, serving_app

AWKWARD = {
    "quotes": """it's "so" 'called' ''' and \"\"\" and `uname`""",
    "backslashes": r"C:\new\table \\ \' \" \u0041 ends in \\",
    "dollars": "$HOME ${PATH} $(date) $$ $'a\\n' !! !x %s {text} {{x}}",
    "lines": "first\nsecond\r\n\tthird\n\nEOF\n",
    "unicode": "Grüße, \u65e5\u672c \U0001f680 e\u0301 \u00a0|\u200b|\u2028|\u202e|\ufeff|",
    "controls": "\x01 \x1b[31m \x7f \x85 \x9b",
    "markup": "<script>alert(1)</script> &amp; --data @file",
    "dashes": "-X @/etc/passwd; rm -rf / #",
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "generate": {"max_new_tokens": 3, "temperature": 0.5, "top_k": 4, "top_p": 0.9, "seed": 7},
    "choose": {"choices": ["it's", 'a "b"', "$c\\"], "min_probability": 0.25, "min_mass": 0},
}
KEY = "a-key-that-is-copied-nowhere"


class Recorder:
    """An app that notes what it is asked and passes it on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.statuses: list[int] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""

        async def noted() -> Message:
            nonlocal body
            message = await receive()
            if message["type"] == "http.request":
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
                    self.asked.append((scope["path"], headers, json.loads(body)))
            return message

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])
            await send(message)

        await self._app(scope, noted, answered)

    def only(self) -> tuple[str, dict[str, str], Any]:
        """What was asked since the last time, which was answered well."""
        (asked,), statuses = self.asked, self.statuses
        self.asked, self.statuses = [], []
        assert statuses == [200]
        return asked


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Recorder]]:
    site = make_site(
        tmp_path_factory.mktemp("served"),
        limits=replace(LIMITS, max_source_tokens=400),
        api_keys=KEY,
        admin_keys=ADMIN_KEY,
    )
    recorder = Recorder(site.app)
    with serving_app(recorder, site.parts.services.settings) as listener:
        site.publish("a-task", prompt=PromptSpec(template="{text}>", options=("yes", "no")))
        yield f"http://127.0.0.1:{listener.port}", recorder


def parameters_of(way: str, form: str) -> dict[str, Any]:
    """Whole prompts are cut, which our client's `choose` has no argument for."""
    return PARAMETERS[way] | ({"truncate": 300} if form == "inputs" else {})


def question(way: str, form: str, content: str) -> dict[str, Any]:
    parameters = {**parameters_of(way, form), "details": True}
    return {
        "way": way,
        "task": "a-task",
        "form": form,
        "content": content,
        "parameters": parameters,
    }


# Each text both ways; of the four pairs of way and form, half of the texts take one half each.
CASES = [
    pytest.param(way, form, text, id=f"{name}-{way}-{form}")
    for number, (name, text) in enumerate(AWKWARD.items())
    for way, form in zip(
        ("generate", "choose"),
        ("text", "inputs") if number % 2 else ("inputs", "text"),
        strict=True,
    )
]


@pytest.mark.parametrize(("way", "form", "content"), CASES)
def test_curl_sends_what_was_asked(
    console: Console,
    served: tuple[str, Recorder],
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    form: str,
    content: str,
) -> None:
    address, recorder = served
    monkeypatch.setenv("JUMPLORA_KEY", KEY)
    asked = question(way, form, content)
    code = console.call("snippets.js", "curl", asked, address, True)
    assert KEY not in code
    subprocess.run(["bash", "-c", f"{code.rstrip()} --silent"], check=True, timeout=30,
                   capture_output=True)  # fmt: skip
    path, headers, body = recorder.only()
    assert path == ("/generate" if way == "choose" else "/generate_stream")
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body == {"task_id": "a-task", form: content, "parameters": asked["parameters"]}


@pytest.mark.parametrize(("way", "form", "content"), CASES)
def test_python_sends_what_was_asked(
    console: Console,
    served: tuple[str, Recorder],
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    form: str,
    content: str,
) -> None:
    address, recorder = served
    monkeypatch.setenv("JUMPLORA_KEY", KEY)
    asked = question(way, form, content)
    code = console.call("snippets.js", "client", asked, address, True)
    assert KEY not in code
    exec(compile(code, "snippet", "exec"), {})
    _, headers, body = recorder.only()
    assert headers["authorization"] == f"Bearer {KEY}"
    parameters = parameters_of(way, form)
    sent = {name: body["parameters"][name] for name in parameters}
    assert (body["task_id"], body[form], sent) == ("a-task", content, parameters)


class OpenAI:
    """Sends as the openai package does: named arguments and those of extra_body in one object."""

    def __init__(self, *, base_url: str, api_key: str) -> None:
        self._url, self._key = base_url, api_key
        self.completions = Completions(self, "/completions")
        self.chat = ModuleType("chat")
        self.chat.completions = Completions(self, "/chat/completions")  # type: ignore[attr-defined]

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        headers = {"authorization": f"Bearer {self._key}"}
        return httpx.post(self._url + path, json=body, headers=headers)


class Completions:
    """A resource of it. Answers are not of interest here."""

    def __init__(self, client: OpenAI, path: str) -> None:
        self._client, self._path = client, path

    def create(self, *, extra_body: dict[str, Any] | None = None, **fields: Any) -> Any:
        self._client.post(self._path, {**fields, **(extra_body or {})})
        return _Unread() if not fields.get("stream") else []


class _Unread:
    def model_dump_json(self, *, indent: int) -> str:
        return ""


@pytest.mark.parametrize(("way", "form", "content"), CASES)
def test_openai_sends_what_was_asked(
    console: Console,
    served: tuple[str, Recorder],
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    form: str,
    content: str,
) -> None:
    address, recorder = served
    monkeypatch.setenv("JUMPLORA_KEY", KEY)
    package = ModuleType("openai")
    package.OpenAI = OpenAI  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openai", package)
    code = console.call("snippets.js", "openai", question(way, form, content), address, True)
    assert KEY not in code
    exec(compile(code, "snippet", "exec"), {})
    path, headers, body = recorder.only()
    assert headers["authorization"] == f"Bearer {KEY}"
    given = body["messages"][0]["content"] if form == "text" else body["prompt"]
    assert (path.endswith("/chat/completions"), given) == (form == "text", content)
    assert body.get("truncate_prompt_tokens") == (300 if form == "inputs" else None)
    if way == "choose":
        assert body["structured_outputs"] == {"choice": PARAMETERS["choose"]["choices"]}
        assert (body["min_probability"], body["min_mass"]) == (0.25, 0)
    else:
        assert body["max_tokens"] == 3
        assert [body[name] for name in ("temperature", "top_k", "top_p", "seed")] == [
            0.5,
            4,
            0.9,
            7,
        ]


@pytest.mark.parametrize("name", ["curl", "client", "openai"])
def test_without_a_key_none_is_named(console: Console, name: str) -> None:
    code = console.call("snippets.js", name, question("choose", "text", "x"), "http://h", False)
    assert "JUMPLORA_KEY" not in code


def test_the_tasks_own_options_are_not_listed(console: Console) -> None:
    asked = question("choose", "text", "x")
    asked["parameters"] = {"choices": True, "details": True}
    assert "options" not in console.call("snippets.js", "client", asked, "http://h", False)
    assert '{"choice": True}' in console.call("snippets.js", "openai", asked, "http://h", False)


TEXTS = st.text(st.characters(), max_size=60)  # half surrogate pairs, too


@settings(deadline=None, max_examples=100)
@given(text=TEXTS)
def test_a_string_of_python_is_the_text(console: Console, text: str) -> None:
    assert ast.literal_eval(console.call("quoting.js", "pythonText", text)) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | TEXTS,
    lambda values: st.lists(values, max_size=5) | st.dictionaries(TEXTS, values, max_size=5),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(value=JSON)
def test_values_of_python_are_the_values(console: Console, value: Any) -> None:
    assert ast.literal_eval(console.call("quoting.js", "python", value)) == value


@settings(deadline=None, max_examples=40)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60))
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_word_of_a_shell_is_the_text(console: Console, shell: str, text: str) -> None:
    word = console.call("quoting.js", "shellWord", text)
    ran = subprocess.run([shell, "-c", f"printf %s {word}"], capture_output=True, timeout=10)
    assert ran.stdout.decode() == text


def unseen(text: str) -> set[str]:
    """Categories of characters that look like nothing, or change how others look."""
    return {category(character) for character in text} & {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}


@settings(deadline=None, max_examples=60)
@given(value=JSON)
def test_json_is_the_value_and_shows_all_of_it(console: Console, value: Any) -> None:
    text = console.call("quoting.js", "json", value)
    assert json.loads(text) == value
    assert unseen(text.replace("\n", "").replace(" ", "")) == set()
