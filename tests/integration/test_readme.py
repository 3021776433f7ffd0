"""The README's commands, run in order as a newcomer would, on a copy of the project's files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from integration.prometheus_process import ROOT, eventually
from ports import held_port

README = ROOT / "README.md"
NEEDED = ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "examples")


def bash_blocks() -> list[str]:
    """The commands a reader is told to type, block by block."""
    return re.findall(r"^```bash\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Desk:
    """A newcomer's folder with the server started by `make serve`."""

    folder: Path
    port: int

    def type(self, block: str) -> str:
        """Run a block as it stands, but for the port; return what it printed."""
        block = block.replace(":8000", f":{self.port}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.folder,
            env=environment(self.port),
            capture_output=True,
            text=True,
            timeout=840,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def environment(port: int) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JUMPLORA_", "MAKE"))}
    return clean | {
        "JUMPLORA_PORT": str(port),
        "JUMPLORA_DRAIN_GRACE": "0",
        "JUMPLORA_SERVER": f"http://127.0.0.1:{port}",
    }


# Who followed the README here has published it into the demo's store.
OF_READERS = {"tickets"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    for part in ("backbone", "store"):
        shutil.copytree(
            ROOT / "adapters" / "demo" / part, folder / "adapters" / "demo" / part,
            ignore=shutil.ignore_patterns(*OF_READERS),
        )  # fmt: skip
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    with held_port() as port:
        yield from _served(Desk(folder, port))


def _served(desk: Desk) -> Iterator[Desk]:
    """Run `make serve` at a desk, yield the desk once the server is ready, end the server."""
    # The environment is there already: only the installation is left out of `make serve`.
    command = ["make", "--old-file=.venv/.serve", "serve"]
    process = subprocess.Popen(
        command, cwd=desk.folder, env=environment(desk.port), start_new_session=True
    )
    try:

        def ready() -> None:
            assert process.poll() is None, "make serve ended"
            url = f"http://127.0.0.1:{desk.port}/readyz"
            assert httpx.get(url, timeout=5).status_code == 200

        eventually(ready, 120)
        yield desk
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def test_the_first_answer_is_the_one_that_the_readme_shows(desk: Desk) -> None:
    said = json.loads(desk.type(bash_blocks()[0]))
    shown = re.search(r"^```json\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert said == json.loads(shown[1])


def test_requests_lists_streams_and_listings_answer(desk: Desk) -> None:
    printed = desk.type(bash_blocks()[1])
    first, _ = json.JSONDecoder().raw_decode(printed)  # curl ends no line
    assert [answer["generated_text"] for answer in first] == ["Business", "Sports"]
    assert '"generated_text":"Politics"' in printed
    assert printed.count("\nAnimal\n") == printed.count("\nAmerican Government\n") == 1
    assert "jumplora_request_duration_seconds" in printed


@pytest.mark.slow
def test_a_prompt_gets_several_answers(desk: Desk) -> None:
    printed = desk.type(bash_blocks()[2]).replace("}{", "}\n{").splitlines()
    searched, sampled = (json.loads(line) for line in printed)
    assert len(searched["details"]["best_of_sequences"]) == 2
    assert len(sampled["details"]["best_of_sequences"]) == 1
    assert searched["generated_text"] == "Business"


def test_choices_have_the_probabilities_that_the_readme_shows(desk: Desk) -> None:
    (block,) = [each for each in bash_blocks() if "generate agnews" in each and "--choices" in each]
    printed, _, answer = desk.type(block).partition("{")
    found = json.loads("{" + answer)
    assert (found["generated_text"], found["details"]["finish_reason"]) == ("", "abstained")
    shown = re.search(
        r"^```\n(answer .*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert shown is not None
    row = re.compile(r"^ (\S.*?) +([\d.]+) +-[\d.]+$", re.MULTILINE)
    said, told = (dict(row.findall(text)) for text in (printed, shown[1]))
    assert [*said] == [*told]
    for option, probability in told.items():
        assert float(said[option]) == pytest.approx(float(probability), abs=2e-4)


def test_kserves_and_vllms_tools(desk: Desk) -> None:
    (block,) = [block for block in bash_blocks() if "/infer" in block]
    inferred, tokens = (
        json.loads(line) for line in desk.type(block).replace("}{", "}\n{").split("\n")
    )
    assert inferred["outputs"][0]["data"] == ["Sports"]
    assert tokens["count"] == len(tokens["tokens"]) > 5


def test_openais_clients(desk: Desk) -> None:
    (block,) = [block for block in bash_blocks() if "/v1/chat/completions" in block]
    models, chat, streamed = (line for line in re.split(r"\n(?=curl)", block.strip()))
    assert "agnews" in [card["id"] for card in json.loads(desk.type(models))["data"]]
    assert json.loads(desk.type(chat))["choices"][0]["message"]["content"] == "Sports"
    *lines, done = desk.type(streamed).strip().split("\n\n")
    assert done == "data: [DONE]"
    *events, last = (json.loads(line.removeprefix("data: ")) for line in lines)
    assert "".join(event["choices"][0]["text"] for event in events) == "Sports"
    assert last["usage"]["completion_tokens"] == len(events)


@pytest.mark.timeout(900)
def test_a_new_adapter_is_trained_published_and_asked(desk: Desk) -> None:
    (block,) = [each for each in bash_blocks() if "jumplora train" in each]
    install, _, rest = block.partition("\n")
    assert install.startswith(".venv/bin/pip install"), "the environment has these packages"
    printed = desk.type(rest)  # as it stands: nothing waits between publishing and asking
    assert "12 of examples/tickets/canaries.jsonl, sent as text" in printed
    assert "calibration error  " in printed
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
    assert targets >= {"serve", "test", "test-slow"}
    for target in targets:
        done = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"make {target}: {done.stderr}"
