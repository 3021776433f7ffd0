"""`jumplora calibrate` and `evaluate --choices` against a server whose fake engine is as sure of
"yes" each time: 8.6 of log-probability before "no" (-0.1 a character, -3 off the way)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from fakes import EOS
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.format import read_adapter
from jumplora_adapters.manifest import Canary, ChoicesSpec, Manifest, PromptSpec
from jumplora_server.cli.main import command_line
from serving import Site, listening, make_site, wait_for

GOLDEN = Path(__file__).parents[1] / "golden" / "v1" / "backbone"
PROMPT = PromptSpec(
    template="{instruction} {options}: {text}", instruction="say", options=("no", "yes")
)
GAP = 3 * 3.0 - 4 * 0.1


pytestmark = pytest.mark.usefixtures("plain_shell")


def say(prompt: tuple[int, ...], versions: tuple[str, ...]) -> str:
    """What the text asks for."""
    text = "".join(chr(token) for token in prompt if token != EOS)
    return "no" if "negate" in text else "yes"


@dataclass(frozen=True)
class Served:
    site: Site
    address: str
    folder: Path

    def publish(self, task: str, **options: Any) -> str:
        return self.site.publish(task, **{"prompt": PROMPT, **options})

    def file(self, version: str) -> Path:
        return self.site.parts.services.store.path_of(version)

    def run(self, *words: object, code: int = 0) -> Result:
        result = CliRunner().invoke(command_line(), [*map(str, words)])
        assert result.exit_code == code, result.output + repr(result.exception)
        return result

    def calibrate(self, spec: object, rows: Path, *words: object, code: int = 0) -> Result:
        place: list[object] = ["--server", self.address, "--backbone", GOLDEN]
        if not str(spec).endswith(".safetensors"):
            place += ["--store", self.folder / "store"]
        return self.run("calibrate", spec, "--rows", rows, *place, *words, code=code)

    def evaluate(self, task: str, rows: Path, *words: object, code: int = 0) -> Result:
        asked = ("--server", self.address, "--task", task, "--data", rows, "--choices")
        return self.run("evaluate", *asked, *words, code=code)

    def evaluate_json(self, task: str, rows: Path, *words: object) -> Any:
        return json.loads(self.evaluate(task, rows, "--json", "--quiet", *words).stdout)

    def rows(self, name: str, *labels: str) -> Path:
        path = self.folder / f"{name}.jsonl"
        lines = [{"text": f"{n}", "label": label} for n, label in enumerate(labels)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    def mixed(self) -> Path:
        """Three of four are right."""
        return self.rows("mixed", *["yes", "yes", "no", "yes"] * 15)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("site")
    site = make_site(folder, backbone=read_backbone(GOLDEN), dtype="int8", fold="always")
    site.engine.say = say
    with listening(site) as address:
        yield Served(site, address, folder)


def manifest_of(served: Served, version: str) -> Manifest:
    return served.site.parts.services.store.manifest(version)


def test_a_calibrated_version_is_published_and_served(served: Served) -> None:
    canary = Canary(prompt="x", expected="yes")
    limits = ChoicesSpec(min_mass=0.25)
    before = served.publish("topic", canaries=[canary], choices=limits)
    raw = served.evaluate_json("topic", served.mixed())["choices"]
    told = served.calibrate("topic", served.mixed())
    store = served.site.parts.services.store
    after = store.current("topic")
    assert after != before
    assert f"new version        {after} in {served.folder / 'store'}" in told.stdout
    assert f"calibrated         {before[:12]} in int8, unfolded" in told.stdout
    assert "accuracy           75.00 %" in told.stdout
    assert "calibration error  0.000, before 0.250" in told.stdout
    assert "error by chance    0.04" in told.stdout, "sqrt(2 / pi * 0.75 * 0.25 / 60) is 0.045"
    assert f"temperature        {GAP / math.log(3):.3f}" in told.stdout
    assert "60/60" in told.stderr
    manifest = manifest_of(served, after)
    assert manifest.choices is not None
    assert manifest.choices.min_mass == 0.25
    (made,) = manifest.choices.calibrations
    assert made.temperature == pytest.approx(GAP / math.log(3), abs=1e-6)
    assert (made.dtype, made.is_folded, made.rows) == ("int8", False, 60)
    assert made.error_before == pytest.approx(raw["calibration_error"], abs=1e-5)
    plain = manifest_of(served, before)
    assert manifest.model_copy(update={"choices": limits}) == plain
    assert manifest.canaries == (canary,)
    old, new = (load_file(served.file(each)) for each in (before, after))
    assert old.keys() == new.keys()
    assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())
    wait_for(lambda: served.site.parts.services.residency.status("topic").version == after)
    found = served.evaluate_json("topic", served.mixed())
    assert found["choices"]["calibrated_by"] == "manifest"
    assert found["choices"]["temperatures"] == [made.temperature]
    assert found["choices"]["calibration_error"] == pytest.approx(0, abs=1e-5)
    assert found["versions"] == [{"version": after, "rows": 60}]
    other = served.rows("other", *["no", "yes"] * 30)
    floors = ("--min-probability", 0.5, "--min-mass", 0)
    again = served.calibrate("topic", other, *floors, "--json", "--quiet")
    assert again.stderr.startswith("warning: the temperature ran to its bound, 20")
    replaced = json.loads(again.stdout)
    assert (replaced["calibrated"], replaced["dropped"]) == (after, [])
    section = manifest_of(served, replaced["version"]).choices
    assert section is not None
    assert (section.min_probability, section.min_mass) == (0.5, 0.0)
    assert [each.temperature for each in section.calibrations] == [20]


def test_a_version_with_folded_ancestors(served: Served) -> None:
    parent = served.publish("parent")
    child = served.publish("child", lineage=[parent])
    told = json.loads(served.calibrate("child", served.mixed(), "--json", "--quiet").stdout)
    assert told["calibrated"] == child
    assert told["calibration"]["is_folded"] is True
    assert manifest_of(served, told["version"]).lineage == (parent,)
    residency = served.site.parts.services.residency
    wait_for(lambda: residency.status("child").version == told["version"])
    found = served.evaluate_json("child", served.mixed())["choices"]
    assert found["calibrated_by"] == "manifest"
    assert found["calibration_error"] == pytest.approx(0, abs=1e-5)
    old = served.calibrate(
        f"child@{child}", served.mixed(), "--out", served.folder / "x.safetensors", code=1
    )
    assert "it does not say whether it folds the ancestors of" in old.stderr


def test_a_file_is_calibrated_into_another(served: Served, tmp_path: Path) -> None:
    version = served.publish("filed")
    out = tmp_path / "new" / "filed.safetensors"
    told = served.calibrate(served.file(version), served.mixed(), "--out", out, "--json", "--quiet")
    made = json.loads(told.stdout)
    assert (made["calibrated"], made["file"], made["accuracy"]) == (version, str(out), 0.75)
    assert read_adapter(out, read_backbone(GOLDEN)).digest == made["version"]
    assert served.site.parts.services.store.current("filed") == version, "nothing is published"
    old = served.publish("filed", lineage=())
    assert old != version
    spec = f"filed@{version[:12]}"
    assert json.loads(
        served.calibrate(spec, served.mixed(), "--out", out, "--json", "--quiet").stdout
    )["version"] == made["version"]  # fmt: skip


def test_what_cannot_be_calibrated(served: Served, tmp_path: Path) -> None:
    old, new = served.publish("faulty"), served.publish("faulty")

    def refused(spec: object, rows: Path, *words: object) -> str:
        return served.calibrate(spec, rows, *words, code=1).stderr

    mixed = served.mixed()
    foreign = served.rows("foreign", *["yes", "no"] * 30, "maybe")
    assert 'label "maybe" (line 61) is none of the options no | yes' in refused("faulty", foreign)
    few = served.rows("few", *["yes", "no"] * 10)
    assert "20 rows given; a temperature needs at least 50" in refused("faulty", few)
    sure = served.rows("sure", *["yes"] * 50)
    assert "all 50 rows are answered right" in refused("faulty", sure, "--quiet")
    assert f"is not the current version ({new[:12]})" in refused(f"faulty@{old[:8]}", mixed)
    assert "is a file: give --out FILE" in refused(served.file(new), mixed)
    served.publish("mute", prompt=PROMPT.model_copy(update={"options": ()}))
    assert "mute has no options in its manifest" in refused("mute", mixed)
    strange = served.site.adapter("faulty", prompt=PROMPT)
    out = ("--out", tmp_path / "x.safetensors")
    assert refused(strange, mixed, *out).startswith("error (unknown_version): ")
    assert served.site.parts.services.store.current("faulty") == new
    assert not (tmp_path / "x.safetensors").exists()


def test_how_sure_an_evaluation_found_it(served: Served, tmp_path: Path) -> None:
    version = served.publish("sure")
    plot = tmp_path / "plots" / "sure.png"
    told = served.evaluate(f"sure@{version}", served.mixed(), "--plot", plot)
    assert "accuracy           75.00 % of the likeliest options" in told.stdout
    assert "of 8 requests (60 rows)" in told.stdout
    assert "calibration error  0.250, not calibrated, temperature 1.000" in told.stdout
    assert "error by chance    0.000, as so many rows show" in told.stdout
    assert "mass of options    median 0." in told.stdout
    assert "at 95 % right      0.00 % of rows\n" in told.stdout
    assert " 1  no          15    0.00 %  .  15" in told.stdout
    assert " 2  yes         45  100.00 %  .  45" in told.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert f"{plot}: the mistaken options" in told.stderr
    found = served.evaluate_json("sure", served.rows("right", "yes", "yes"))
    assert found["scores"]["exact_match"] == 1.0
    assert found["choices"]["options"] == ["no", "yes"]
    assert found["choices"]["confusion"] == [[0, 0], [0, 2]]
    likely = found["choices"]["coverage"][0]["min_probability"]
    assert likely == pytest.approx(1 / (1 + math.exp(-GAP)), abs=1e-5)


def test_options_of_prompts_that_are_made_here(served: Served) -> None:
    served.publish("bare", prompt=None)
    rows = served.rows("own", "yes", "maybe")
    words = ("--instruction", "say", "--options", "yes | maybe")
    found = served.evaluate_json("bare", rows, *words)
    assert found["choices"]["options"] == ["yes", "maybe"]
    assert found["choices"]["confusion"] == [[1, 0], [1, 0]]


def test_evaluations_that_would_say_nothing(served: Served) -> None:
    served.publish("plain")
    foreign = served.rows("world", "Yes", "no")
    told = served.evaluate("plain", foreign, code=1)
    assert 'label "Yes" (line 1) is none of the options no | yes' in told.stderr
    assert told.stdout == ""
    served.publish("silent", prompt=PROMPT.model_copy(update={"options": ()}))
    assert "error (" in served.evaluate("silent", foreign, code=1).stderr
    asked = ("--server", served.address, "--task", "plain", "--data", foreign)
    alone = served.run("evaluate", *asked, "--plot", "a.png", code=2)
    assert "--plot needs --choices" in alone.output
    assert "ends in .png" in served.evaluate("plain", foreign, "--plot", "a.pdf", code=2).output


def test_an_abstention_is_counted_and_its_row_is_rated(served: Served) -> None:
    served.publish("careful", choices=ChoicesSpec(min_probability=1.0))
    found = served.evaluate_json("careful", served.mixed())
    assert found["choices"]["abstained"] == 60
    assert (found["choices"]["accuracy"], found["scores"]["exact_match"]) == (0.75, 0.0)
    shown = served.evaluate("careful", served.mixed())
    assert "abstained          60 rows" in shown.stdout
