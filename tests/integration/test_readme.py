"""What README.md and server/CLIENTS.md show, typed in order as a newcomer would, on a copy of the
project's files.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from integration.desk import OF_READERS, Desk, copied_project
from integration.pages import Block, lacking, steps
from integration.prometheus_process import ROOT
from ports import held_port

README = ROOT / "README.md"
CLIENTS = ROOT / "server" / "CLIENTS.md"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A newcomer's folder with the server started by `make serve`."""
    folder = tmp_path_factory.mktemp("desk")
    copied_project(folder)
    with held_port() as port:
        settings = {"JUMPLORA_SERVER": f"http://127.0.0.1:{port}"}
        desk = Desk(folder, port, python=".venv/bin/python", settings=settings)
        # The environment is there already: only the installation is left out of `make serve`.
        with desk.served("make --old-file=.venv/.serve serve"):
            yield desk


def trains(block: Block) -> bool:
    return "jumplora train" in block.text


def needs_clients(block: Block) -> bool:
    return "from openai" in block.text


QUICK = [
    pytest.param(block, outputs, id=f"{page.name}-{block.line}")
    for page in (README, CLIENTS)
    for block, outputs in steps(page)
    if not trains(block) and not needs_clients(block)
]


@pytest.mark.parametrize(("block", "outputs"), QUICK)
def test_every_block_does_what_its_page_shows(
    desk: Desk, block: Block, outputs: list[Block]
) -> None:
    printed = desk.follow(block)
    assert [lacking(shown, printed) for shown in outputs] == [[] for _ in outputs], printed


def block_with(page: Path, *parts: str) -> str:
    (found,) = [b.text for b, _ in steps(page) if all(part in b.text for part in parts)]
    return found


def test_requests_lists_streams_and_listings_answer(desk: Desk) -> None:
    printed = desk.type(block_with(CLIENTS, "/generate_stream"))
    first, _ = json.JSONDecoder().raw_decode(printed)  # curl ends no line
    assert [answer["generated_text"] for answer in first] == ["Business", "Sports"]
    assert '"generated_text":"Politics"' in printed
    assert "jumplora_request_duration_seconds" in printed


@pytest.mark.slow
def test_a_prompt_gets_several_answers(desk: Desk) -> None:
    printed = desk.type(block_with(CLIENTS, "num_beams")).replace("}{", "}\n{").splitlines()
    searched, sampled = (json.loads(line) for line in printed)
    assert len(searched["details"]["best_of_sequences"]) == 2
    assert len(sampled["details"]["best_of_sequences"]) == 1
    assert searched["generated_text"] == "Business"


def test_choices_have_the_probabilities_that_the_readme_shows(desk: Desk) -> None:
    ((block, (shown,)),) = [each for each in steps(README) if "--choices" in each[0].text]
    row = re.compile(r"^ (\S.*?) +([\d.]+) +-[\d.]+$", re.MULTILINE)
    said, expected = (dict(row.findall(text)) for text in (desk.type(block.text), shown.text))
    assert len(expected) == 4
    assert [*said] == [*expected]
    for option, probability in expected.items():
        assert float(said[option]) == pytest.approx(float(probability), abs=2e-4)


def test_options_without_the_models_own_answer_get_none(desk: Desk) -> None:
    found = json.loads(desk.type(block_with(CLIENTS, "min_mass")))
    assert (found["generated_text"], found["details"]["finish_reason"]) == ("", "abstained")
    assert found["details"]["mass"] == pytest.approx(0.007, abs=5e-4)
    sports, world = (
        next(each["probability"] for each in found["details"]["choices"] if each["text"] == text)
        for text in ("Sports", "World")
    )
    assert world / sports == pytest.approx(9.4, abs=0.2)


def test_kserves_and_vllms_tools(desk: Desk) -> None:
    block = block_with(CLIENTS, "/infer")
    inferred, tokens = (
        json.loads(line) for line in desk.type(block).replace("}{", "}\n{").split("\n")
    )
    assert inferred["outputs"][0]["data"] == ["Sports"]
    assert tokens["count"] == len(tokens["tokens"]) > 5


def test_openais_routes(desk: Desk) -> None:
    block = block_with(CLIENTS, "/v1/chat/completions")
    models, chat, streamed = (line for line in re.split(r"\n(?=curl)", block.strip()))
    assert "agnews" in [card["id"] for card in json.loads(desk.type(models))["data"]]
    assert json.loads(desk.type(chat))["choices"][0]["message"]["content"] == "Sports"
    *lines, done = desk.type(streamed).strip().split("\n\n")
    assert done == "data: [DONE]"
    *events, last = (json.loads(line.removeprefix("data: ")) for line in lines)
    assert "".join(event["choices"][0]["text"] for event in events) == "Sports"
    assert last["usage"]["completion_tokens"] == len(events)


@pytest.mark.slow
@pytest.mark.timeout(600)  # which may install the stock clients
def test_openais_client(desk: Desk) -> None:
    ((block, outputs),) = [each for each in steps(CLIENTS) if needs_clients(each[0])]
    printed = desk.run(block.text)
    assert [lacking(shown, printed) for shown in outputs] == [[]], printed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_new_adapter_is_trained_published_and_asked(desk: Desk) -> None:
    (block,) = [block for block, _ in steps(README) if trains(block)]
    printed = desk.type(block.text)  # as it stands: nothing waits between publishing and asking
    assert printed.splitlines()[-1] in ("billing", "delivery", "account")


# Typed for this test, none of them from a data set.
SENTENCES = {
    "agnews": {
        "The striker scored twice as the home side won the cup final.": "Sports",
        "Shares fell after the bank reported weak quarterly profits.": "Business",
        "Soldiers and rebels clashed near the capital as peace talks failed.": "World",
        "Microsoft released a new version of its web browser software.": "Science or Technology",
    },
    "dbpedia": {
        "Siemens is a German manufacturing company with headquarters in Munich.": "Company",
        "She is a retired tennis player who won two tournaments and represented Sweden at the"
        " Olympics.": "Athlete",
        "Oak Ridge High School is a public secondary school in Texas with 1200 students in grades 9"
        " to 12.": "Educational Institution",
        "It is a species of beetle in the family Carabidae, found in Brazil.": "Animal",
        "It is the third studio album by the American rock band, released in 1994 on Columbia"
        " Records.": "Album",
        "It is a village in the district of Sari in northern Iran, with a population of 214 in 42"
        " families.": "Village",
    },
    "register": {
        "my fellow citizens, this congress must act, and i ask you tonight to pass this bill for"
        " the american people and for the peace of the world.": "Politics",
        "the plot makes no sense, but the actors have fun, the special effects are great, and the"
        " film is better than the first one.": "Film Review",
    },
    "subject": {
        "Classical conditioning pairs a neutral stimulus with one that already triggers a"
        " response, so that the behavior is learned by the brain.": "Psychology",
        "The Senate can block a bill by a filibuster unless sixty senators vote to end debate, and"
        " the House then votes again.": "American Government",
    },
}


TASKS = {path.name for path in (ROOT / "adapters" / "demo" / "store").glob("[a-z]*")} - OF_READERS


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_demo_task_labels_sentences_that_were_typed_in(desk: Desk, task: str) -> None:
    sentences = SENTENCES[task]
    body = {"task_id": task, "text": list(sentences)}
    answers = httpx.post(f"http://127.0.0.1:{desk.port}/generate", json=body, timeout=60).json()
    assert [answer["generated_text"] for answer in answers] == list(sentences.values())


def test_every_make_target_of_the_readme_exists(desk: Desk) -> None:
    targets = set(re.findall(r"\bmake ([a-z-]+)", README.read_text("utf-8")))
    assert targets >= {"serve", "test"}
    for target in targets:
        done = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"make {target}: {done.stderr}"
