"""`jumplora evaluate` against a server over HTTP, whose fake engine answers "version:prompt"."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fakes import LIMITS
from jumplora_server.cli.main import command_line
from ports import deaf_address
from serving import PROMPT, Site, listening, make_site, slow_down, wait_for

LONG = {"max_new_tokens": 99}


pytestmark = pytest.mark.usefixtures("plain_shell")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str, str]]:
    """Its address, and the version of alpha as its answers name it."""
    site = make_site(tmp_path_factory.mktemp("site"), max_inputs=16)
    with listening(site) as address:
        version = site.publish("alpha", generation=LONG)
        site.publish("bare", prompt=None, generation=LONG)
        yield site, address, version[:8]


def write(path: Path, *rows: dict[str, str]) -> Path:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def labelled(said: str, *texts: str) -> list[dict[str, str]]:
    """Rows that alpha's template makes the fake engine answer right."""
    return [{"text": text, "label": f"{said}:do {{text}}|{text}>"} for text in texts]


def evaluate(address: str, *arguments: object, code: int = 0) -> Result:
    words = ["evaluate", "--server", address, *map(str, arguments)]
    result = CliRunner().invoke(command_line(), words)
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def evaluate_json(address: str, *arguments: object, code: int = 0) -> Any:
    return json.loads(evaluate(address, *arguments, "--json", "--quiet", code=code).stdout)


def test_a_mixed_result(served: tuple[Site, str, str], tmp_path: Path) -> None:
    site, address, said = served
    wrong = {"text": "four", "label": f"{said}:do {{text}}|one>"}
    data = write(tmp_path / "a.jsonl.gz", *labelled(said, "one", "two", "three"), wrong)
    told = evaluate_json(address, "--task", "alpha", "--data", data, "--batch", 2)
    assert (told["rows"], told["scores"]["exact_match"], told["requests"]) == (4, 0.75, 2)
    version = site.parts.services.residency.status("alpha").version
    assert told["versions"] == [{"version": version, "rows": 4}]
    assert told["labels"][0] == {
        "label": wrong["label"],
        "rows": 2,
        "correct": 1,
        "accuracy": 0.5,
    }
    assert 0 < told["latency"]["p50"] <= told["latency"]["p95"] <= told["latency"]["p99"]
    assert told["rows_per_second"] == pytest.approx(4 / told["seconds"])


def test_the_table_and_the_bar(served: tuple[Site, str, str], tmp_path: Path) -> None:
    _, address, said = served
    data = write(tmp_path / "a.jsonl", *labelled(said, "one", "two"))
    shown = evaluate(address, "--task", f"alpha@{said}", "--data", data)
    assert "exact match  100.00 %" in shown.stdout
    assert f"2 of {data}, sent as text" in shown.stdout
    assert f"version      {said}" in shown.stdout
    assert "latency      p50 " in shown.stdout
    assert "|two>     1        1  100.00 %" in shown.stdout
    assert "2/2" in shown.stderr
    quiet = evaluate(address, "--task", "alpha", "--data", data, "--quiet")
    assert quiet.stderr == ""


def test_texts_and_whole_prompts_measure_the_same(
    served: tuple[Site, str, str], tmp_path: Path
) -> None:
    _, address, said = served
    texts = labelled(said, "one", "two")
    prompts = [{"input": row["label"].partition(":")[2], "target": row["label"]} for row in texts]
    ours = ("--instruction", "do {text}", "--template", "{instruction}|{text}>")
    scores = [
        evaluate_json(address, "--task", "alpha", "--data", data, *options)["scores"]
        for data, options in (
            (write(tmp_path / "text.jsonl", *texts), ()),
            (write(tmp_path / "input.jsonl", *prompts), ()),
            (tmp_path / "text.jsonl", ours),
        )
    ]
    assert scores == [{"exact_match": 1.0, "f1": 1.0, "rouge_l": 1.0}] * 3


def test_a_version_without_a_template_answers_several_tasks(
    served: tuple[Site, str, str], tmp_path: Path
) -> None:
    site, address, _ = served
    said = str(site.parts.services.residency.status("bare").version)[:8]
    entry = {"instruction": "Which?", "options": [f"{said}:Which? a", "b"]}
    tasks = {"tasks": {"first": {**entry, "template": "{instruction} {text}"}}}
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    data = write(tmp_path / "a.jsonl", {"text": "a", "label": f"{said}:Which? a"})
    asked = ("--task", "bare", "--data", data)
    refused = evaluate(address, *asked, "--quiet", code=1).stderr
    assert "no prompt template" in refused
    assert '{"input", "target"}' in refused
    assert "--raw" not in refused
    file = ("--task-file", tmp_path / "tasks.json")
    told = evaluate_json(address, *asked, *file, "--as", "first")
    assert told["scores"]["exact_match"] == 1.0
    assert "has no task bare; it has first" in evaluate(address, *asked, *file, code=1).stderr
    assert "--as names an entry" in evaluate(address, *asked, "--as", "first", code=2).output
    other = write(tmp_path / "b.jsonl", {"text": "a", "label": "c"})
    outside = evaluate(address, "--task", "x", "--data", other, "--options", "a | b", code=1)
    assert "error (data): " in outside.stderr
    assert 'label "c" (line 1) is none of the options a | b' in outside.stderr


def test_the_first_rows(served: tuple[Site, str, str], tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", *labelled("x", "one", "two", "three"))
    told = evaluate_json(served[1], "--task", "alpha", "--data", data, "--rows", 2)
    assert (told["rows"], told["scores"]["exact_match"]) == (2, 0.0)


def test_prompts_that_are_too_long_are_cut_and_counted(
    served: tuple[Site, str, str], tmp_path: Path
) -> None:
    _, address, said = served
    room = LIMITS.max_source_tokens - len("do {text}|>") - 1
    data = write(
        tmp_path / "a.jsonl",
        *labelled(said, "one", "x" * room),
        {"text": "y" * 99, "label": f"{said}:do {{text}}|{'y' * room}>"},
    )
    result = evaluate(address, "--task", "alpha", "--data", data)
    assert "exact match  100.00 %" in result.stdout
    assert "warning: 1 texts were cut: with their prompts they exceed 64 tokens" in result.stderr
    ours = ("--instruction", "do {text}", "--template", "{instruction}|{text}>")
    ended = evaluate(address, "--task", "alpha", "--data", data, *ours)
    assert "exact match  66.67 %" in ended.stdout, "the end of the template is lost"
    assert "1 whole prompts exceed 64 tokens and lost their end" in ended.stderr
    backbone = tmp_path / "backbone"
    backbone.mkdir()
    site = served[0]
    site.parts.services.tokenizer.raw.save(str(backbone / "tokenizer.json"))
    fitted = evaluate(address, "--task", "alpha", "--data", data, *ours, "--backbone", backbone)
    assert "exact match  100.00 %" in fitted.stdout
    assert "warning: 1 texts were cut" in fitted.stderr


def test_answers_that_were_stopped_are_told(served: tuple[Site, str, str], tmp_path: Path) -> None:
    site, address, _ = served
    site.publish("curt", generation={"max_new_tokens": 3})
    data = write(tmp_path / "a.jsonl", {"input": "one", "target": "x"})
    result = evaluate(address, "--task", "curt", "--data", data, "--quiet")
    assert "1 answers were stopped by the limit of new tokens" in result.stderr


def test_a_version_that_changes_in_mid_run_is_told(
    served: tuple[Site, str, str], tmp_path: Path
) -> None:
    site, address, _ = served
    first = site.publish("moving")
    data = write(tmp_path / "a.jsonl", *({"input": f"{n}", "target": "x"} for n in range(25)))
    asked = ("--task", "moving", "--data", data, "--batch", 1, "--concurrency", 1, "--quiet")
    with slow_down(site, 0.01), ThreadPoolExecutor(1) as pool:
        running = pool.submit(evaluate, address, *asked)
        wait_for(lambda: bool(site.outcomes("moving")))
        second = site.publish("moving")
        result = running.result(timeout=60)
    assert "the version changed during the run: the scores mix 2 versions" in result.stderr
    shown = next(line for line in result.stdout.splitlines() if line.startswith("version "))
    assert shown.index(first[:12]) < shown.index(second[:12])


def test_a_server_that_is_full_is_asked_again_until_all_rows_are_answered(tmp_path: Path) -> None:
    site = make_site(tmp_path, max_queued_requests=2, task_share=1.0)
    data = write(tmp_path / "a.jsonl", *({"input": f"{n}", "target": "x"} for n in range(8)))
    asked = ("--task", "alpha", "--data", data, "--batch", 2, "--concurrency", 4)
    with listening(site) as address:
        version = site.publish("alpha")
        with slow_down(site, 0.01):
            told = evaluate_json(address, *asked)
    assert told["retries"] > 0
    assert told["versions"] == [{"version": version, "rows": 8}]


def test_the_floor(served: tuple[Site, str, str], tmp_path: Path) -> None:
    _, address, said = served
    wrong = {"text": "three", "label": "else"}
    data = write(tmp_path / "a.jsonl", *labelled(said, "one", "two"), wrong)
    asked = ("--task", "alpha", "--data", data, "--quiet")
    assert evaluate(address, *asked, "--floor", 0.6).stderr == ""
    missed = evaluate(address, *asked, "--floor", 0.8, code=1)
    assert missed.stderr == "exact match 0.666667 is below the floor 0.8\n"
    assert "exact match  66.67 %" in missed.stdout
    assert evaluate_json(address, *asked, "--floor", 0.8, code=1)["rows"] == 3


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        pytest.param(None, (), "a.jsonl cannot be read: No such file", id="missing"),
        pytest.param("{", (), "line 1: not JSON", id="not-json"),
        pytest.param("", (), "a.jsonl has no rows", id="empty"),
        pytest.param(
            '{"text": "a", "label": "b"}\n{"input": "a", "target": "b"}',
            (),
            'some rows have "text"',
            id="mixed",
        ),
        pytest.param('{"text": "", "label": "b"}', (), "line 1: there is nothing", id="nothing"),
        pytest.param(
            '{"input": "a", "target": "b"}',
            ("--instruction", "x"),
            'its rows have "input", a whole prompt',
            id="prompt-for-prompts",
        ),
        pytest.param(
            '{"text": "a", "label": "b"}', ("--template", "x"), "no {text}", id="template"
        ),
        pytest.param('{"text": "a", "label": "b"}', (), "gave no answer", id="no-server"),
    ],
)
def test_faults_before_the_first_request(
    tmp_path: Path, content: str | None, options: tuple[str, ...], message: str
) -> None:
    data = tmp_path / "a.jsonl"
    if content is not None:
        data.write_text(content)
    with deaf_address() as nowhere:
        result = evaluate(nowhere, "--task", "alpha", "--data", data, *options, code=1)
    assert message in result.stderr
    assert result.stdout == ""


def test_what_the_server_refuses(served: tuple[Site, str, str], tmp_path: Path) -> None:
    address = served[1]
    data = write(tmp_path / "a.jsonl", *labelled("x", "one", "two"))
    unknown = evaluate(address, "--task", "alhpa", "--data", data, code=1).stderr
    assert unknown.startswith("error (unknown_task): ")
    assert "alpha" in unknown
    assert f"(lines 1 to 2 of {data}); 0 of 2 rows were answered until then" in unknown
    large = evaluate(address, "--task", "alpha", "--data", data, "--batch", 17, code=1)
    assert large.stderr == "--batch is 17; this server takes at most 16 texts a request\n"


OPTIONS = ("Sports", "World")


def test_labels_that_the_task_does_not_have_are_said(
    served: tuple[Site, str, str], tmp_path: Path
) -> None:
    site, address, _ = served
    prompt = PROMPT.model_copy(update={"options": OPTIONS})
    older = site.publish("optioned", prompt=prompt, generation=LONG)
    rows = [
        {"text": "a", "label": "sports"},  # as exact match has it, an option
        {"text": "b", "label": "Music"},
        *({"text": "c", "label": "Food"} for _ in range(4)),
    ]
    data = write(tmp_path / "a.jsonl", *rows)
    asked = ("--task", "optioned", "--data", data, "--quiet")
    told = evaluate(address, *asked).stderr
    assert 'labels "Music" (line 2), "Food" (4 rows: lines 3, 4, 5, ...) are none' in told
    assert "these 5 of 6 rows can only be wrong" in told
    requests = site.outcomes("optioned")
    foreign = write(tmp_path / "b.jsonl", *rows[1:])
    refused = evaluate(address, "--task", "optioned", "--data", foreign, "--json", code=1)
    assert refused.stdout == ""
    assert "none of the options Sports | World; no row has a label that optioned" in refused.stderr
    assert "--task of these rows" in refused.stderr
    assert site.outcomes("optioned") == requests, "nothing was asked"
    fitting = write(tmp_path / "c.jsonl", rows[0])
    assert evaluate(address, "--task", "optioned", "--data", fitting, "--quiet").stderr == ""
    # Of a version that does not answer for its task now, the options are not known here.
    site.publish("optioned", generation=LONG)
    old = ("--task", f"optioned@{older[:8]}", "--data", foreign, "--quiet")
    assert evaluate(address, *old).stderr == ""


def test_prompts_made_here_have_options_of_their_own(
    served: tuple[Site, str, str], tmp_path: Path
) -> None:
    site, address, _ = served
    site.publish("other", prompt=PROMPT.model_copy(update={"options": OPTIONS}), generation=LONG)
    data = write(tmp_path / "a.jsonl", {"text": "a", "label": "Food"})
    own = ("--options", "Food | Music", "--quiet")
    assert evaluate(address, "--task", "other", "--data", data, *own).stderr == ""
    whole = write(tmp_path / "b.jsonl", {"input": "a", "target": "Food"})
    assert evaluate(address, "--task", "other", "--data", whole, "--quiet").stderr == ""
