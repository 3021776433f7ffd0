"""Choices over HTTP, with the fake engine: an option that it says is likely, all others are not.

A token that it says costs 0.1, any other 3: so each option's log-probability is known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes import LIMITS
from jumplora_adapters.manifest import Calibration, ChoicesSpec, PromptSpec, options_digest
from jumplora_server.core import EngineLimits
from jumplora_server.engine.tokenizer import Tokenizer
from serving import Site, character_tokenizer, connected, make_site, slow_down, wait_for

DEMO = Path(__file__).parents[3] / "adapters" / "demo" / "backbone"
LABELS = ("World", "Sports", "Business")
PROMPT = PromptSpec(template="{text}>", options=LABELS)
ROWS = 0x251  # <ctl> is the last token that the backbone knows, newtok the next


def logprob(option: str, said: str) -> float:
    """What the fake engine gives an option when it would say something else."""
    ids = [*option, ""]
    heard = [*said, ""]
    same = next((n for n, (a, b) in enumerate(zip(ids, heard, strict=False)) if a != b), None)
    likely = len(ids) if same is None else same
    return -0.1 * likely - 3.0 * (len(ids) - likely)


def calibration(**fields: Any) -> Calibration:
    given: dict[str, Any] = {
        "dtype": "float32",
        "is_folded": False,
        "options": options_digest(PROMPT),
        "temperature": 2.0,
        "rows": 100,
        "error": 0.02,
        "error_before": 0.1,
    }
    return Calibration(**(given | fields))


def start(folder: Path, limits: EngineLimits = LIMITS, **settings: Any) -> Site:
    tokenizer = character_tokenizer(special=["<ctl>", "</s>"], added=["newtok"], rows=ROWS)
    site = make_site(folder, limits=limits, tokenizer=tokenizer, allow_base="yes", **settings)
    # It says the text that it was given: prompts end with ">" here.
    site.engine.say = lambda prompt, versions: "".join(map(chr, prompt)).partition(">")[0]
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return start(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def http(site: Site) -> Iterator[httpx.Client]:
    with connected(site) as http:
        site.publish("labels", prompt=PROMPT, generation={"num_beams": 2, "max_new_tokens": 3})
        site.publish("none", prompt=PromptSpec(template="{text}>"))
        yield http


def ask(
    http: httpx.Client, text: str | list[str] = "Sports", task: str | None = "labels", **asked: Any
) -> httpx.Response:
    body = json.dumps({"task_id": task, "text": text, "parameters": asked})  # surrogates escaped
    return http.post("/generate", content=body, headers={"content-type": "application/json"})


def answer(http: httpx.Client, *given: Any, **asked: Any) -> dict[str, Any]:
    response = ask(http, *given, **asked)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def refusal(http: httpx.Client, *given: Any, **asked: Any) -> str:
    response = ask(http, *given, **asked)
    assert (response.status_code, response.json()["error_type"]) == (422, "validation")
    message: str = response.json()["error"]
    return message


def test_the_adapters_own_options(http: httpx.Client) -> None:
    found = answer(http, choices=True)
    details = found["details"]
    exact = {label: logprob(label, "Sports") for label in LABELS}
    total = sum(map(math.exp, exact.values()))
    assert (found["generated_text"], details["finish_reason"]) == ("Sports", "eos_token")
    assert [each["text"] for each in details["choices"]] == ["Sports", "World", "Business"]
    for each in details["choices"]:
        assert each["logprob"] == pytest.approx(exact[each["text"]])
        assert each["probability"] == pytest.approx(math.exp(exact[each["text"]]) / total)
    assert details["mass"] == pytest.approx(total)
    assert (details["temperature"], details["calibrated_by"]) == (1.0, "nothing")
    assert details["generated_tokens"] == len("Sports") + 1
    assert (details["tokens"], details["score"], details["seed"]) == ([], None, None)
    assert "timing" not in details
    timing = answer(http, choices=True, details=True)["details"]["timing"]
    assert timing["total_seconds"] >= timing["decode_seconds"] > 0


def test_a_list_of_options_and_of_prompts(http: httpx.Client) -> None:
    offered = ["Sp", "Sports", "S"]  # each a prefix of another
    found = ask(http, ["S", "Sp", "Sports"], choices=offered).json()
    assert [each["generated_text"] for each in found] == ["S", "Sp", "Sports"]
    assert [each["details"]["prompt_tokens"] for each in found] == [3, 4, 8]


def test_raw_prompts_and_the_bare_backbone(http: httpx.Client) -> None:
    body = {"task_id": None, "inputs": "b>", "parameters": {"choices": ["a", "b"]}}
    found = http.post("/generate", json=body).json()
    assert found["generated_text"] == "b"
    assert found["details"]["calibrated_by"] == "nothing"


def test_one_option_scores_a_text(http: httpx.Client) -> None:
    details = answer(http, choices=["World"], details=True)["details"]
    (only,) = details["choices"]
    assert only["probability"] == 1.0
    assert only["logprob"] == pytest.approx(logprob("World", "Sports"))
    assert details["mass"] == pytest.approx(math.exp(only["logprob"]))
    assert details["score"] == pytest.approx(only["logprob"] / 6)


def test_equals_keep_the_order_given(http: httpx.Client) -> None:
    offered = ["zz", "yy", "Sports", "aa", "mm"]
    details = answer(http, choices=offered)["details"]
    assert [each["text"] for each in details["choices"]] == ["Sports", "zz", "yy", "aa", "mm"]


def test_what_was_not_looked_at_is_last(http: httpx.Client) -> None:
    """More nodes than one pass has."""
    others = [f"unlikely {n:03} thing" for n in range(30)]
    details = answer(http, "Sports", choices=[*others, "Sports", "Spxx"])["details"]
    texts = [each["text"] for each in details["choices"]]
    assert texts == ["Sports", "Spxx", *others]
    assert details["choices"][-1] == {"text": others[-1], "probability": 0.0, "logprob": None}
    assert sum(each["probability"] for each in details["choices"]) == pytest.approx(1.0)


def test_answers_without_choices_have_no_word_of_them(http: httpx.Client) -> None:
    details = answer(http, num_beams=1)["details"]
    assert not {"choices", "mass", "temperature", "calibrated_by"} & details.keys()


def test_the_same_alone_and_in_company(http: httpx.Client) -> None:
    alone = [answer(http, label, choices=True) for label in LABELS]
    together = ask(http, [*LABELS] * 3, choices=True).json()
    assert together == alone * 3


# Abstention


@pytest.mark.parametrize(
    ("text", "asked", "cause"),
    [
        ("Sports", {"min_probability": 0.99}, None),
        ("Sports", {"min_mass": 0.4}, None),
        ("x", {"min_probability": 0.9999}, "probability"),
        ("x", {"min_mass": 0.5}, "mass"),
        ("x", {"min_mass": 0.5, "min_probability": 0.9999}, "mass"),
    ],
)
def test_abstention(
    http: httpx.Client, site: Site, text: str, asked: dict[str, float], cause: str | None
) -> None:
    def counted(what: str) -> float:
        return site.metric("jumplora_abstentions_total", task_id="labels", cause=what)

    before = {what: counted(what) for what in ("probability", "mass")}
    prompts = site.metric("jumplora_choices_mass_count", task_id="labels")
    found = answer(http, text, choices=True, **asked)
    assert found["details"]["finish_reason"] == ("eos_token" if cause is None else "abstained")
    best = found["details"]["choices"][0]
    assert found["generated_text"] == ("" if cause else best["text"])
    assert len(found["details"]["choices"]) == 3
    assert (found["details"]["generated_tokens"] == 0) == (cause is not None)
    for what, value in before.items():
        assert counted(what) == value + (what == cause)
    assert site.metric("jumplora_choices_mass_count", task_id="labels") == prompts + 1


def test_a_manifests_own_floors(http: httpx.Client, site: Site) -> None:
    spec = ChoicesSpec(min_probability=0.99, min_mass=0.3)
    site.publish("sure", prompt=PROMPT, choices=spec)
    assert answer(http, "Sports", "sure", choices=True)["generated_text"] == "Sports"
    assert answer(http, "x", "sure", choices=True)["details"]["finish_reason"] == "abstained"
    asked = {"min_probability": 0.0, "min_mass": 0.0}
    assert answer(http, "x", "sure", choices=True, **asked)["generated_text"] == "World"
    assert answer(http, "x", "sure", choices=["b", "x"])["generated_text"] == "x"


# Calibration


def test_a_calibration_divides_and_changes_no_order(http: httpx.Client, site: Site) -> None:
    plain = answer(http, "x", choices=True)["details"]
    site.publish("warm", prompt=PROMPT, choices=ChoicesSpec(calibrations=(calibration(),)))
    details = answer(http, "x", "warm", choices=True)["details"]
    assert (details["temperature"], details["calibrated_by"]) == (2.0, "manifest")
    assert [each["logprob"] for each in details["choices"]] == [
        each["logprob"] for each in plain["choices"]
    ]
    assert details["mass"] == plain["mass"]
    weights = [math.exp(each["logprob"] / 2.0) for each in plain["choices"]]
    assert [each["probability"] for each in details["choices"]] == pytest.approx(
        [weight / sum(weights) for weight in weights]
    )


@pytest.mark.parametrize(
    ("offered", "calibrated_by"),
    [
        ([*LABELS], "manifest"),
        ([*reversed(LABELS)], "manifest"),
        ([*LABELS, "Science"], "nothing"),
        ([*LABELS[:2]], "nothing"),
    ],
)
def test_a_calibration_is_for_the_adapters_own_options(
    http: httpx.Client, site: Site, offered: list[str], calibrated_by: str
) -> None:
    site.publish("own", prompt=PROMPT, choices=ChoicesSpec(calibrations=(calibration(),)))
    assert answer(http, "x", "own", choices=offered)["details"]["calibrated_by"] == calibrated_by


@pytest.mark.parametrize(
    "fields",
    [{"dtype": "int8"}, {"is_folded": True}, {"options": "0" * 64}],
    ids=["dtype", "form", "labels"],
)
def test_a_calibration_of_something_else_does_not_count(
    http: httpx.Client, site: Site, fields: dict[str, Any]
) -> None:
    spec = ChoicesSpec(calibrations=(calibration(**fields),))
    site.publish("other", prompt=PROMPT, choices=spec)
    assert answer(http, "x", "other", choices=True)["details"]["calibrated_by"] == "nothing"


@pytest.mark.parametrize(("fold", "temperature"), [("always", 3.0), ("never", 2.0)])
def test_the_form_that_is_served_decides(tmp_path: Path, fold: str, temperature: float) -> None:
    site = start(tmp_path, fold=fold)
    both = (calibration(), calibration(is_folded=True, temperature=3.0))
    with connected(site) as http:
        ancestor = site.publish("ancestor", prompt=PROMPT)
        spec = ChoicesSpec(calibrations=both)
        site.publish("child", prompt=PROMPT, choices=spec, lineage=[ancestor])
        details = answer(http, "x", "child", choices=True)["details"]
        assert details["temperature"] == temperature
        # Nothing keeps the version from being unloaded afterwards.
        status = site.parts.services.residency.status("child")
        assert status.in_flight == 0


# What is refused


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"choices": 0}, "parameters.choices: must be true, for the options of the adapter's"),
        ({"choices": False, "min_mass": 0.5}, "min_mass has no effect without choices"),
        ({"choices": "Sports"}, "parameters.choices: must be true"),
        ({"choices": []}, "parameters.choices: 0 options given; 1 to 256 are allowed"),
        ({"choices": ["x"] * 257}, "parameters.choices: 257 options given; 1 to 256 are allowed"),
        ({"choices": ["a", 3]}, "parameters.choices: item 1 must be a text"),
        ({"choices": ["a", ""]}, "parameters.choices: item 1 is empty"),
        ({"choices": ["a", " \n"]}, "parameters.choices: item 1 is empty"),
        ({"choices": ["a", "\ud800"]}, "parameters.choices: item 1 is not valid Unicode"),
        ({"choices": ["b" * 1025]}, "item 0 has 1025 characters; at most 1024 are allowed"),
        ({"choices": ["Yes", "no", " yes "]}, "item 2 ' yes ' is the one at 0 again, but for case"),
        ({"choices": ["Yes", "\uff39es"]}, "item 1 '\\uff39es' is the one at 0 again"),
        ({"choices": ["b" * 64]}, "choices[0]: 'bbb"),
        ({"choices": ["a", "newtok"]}, "choices[1]: 'newtok' needs the token 'newtok' (id 593)"),
        (
            {"choices": ["\u4e00", "\u4e01"]},  # neither is in the vocabulary
            "choices[1]: '\\u4e01' has the same tokens as the option at 0, '\\u4e00', so",
        ),
        ({"min_mass": 0.5}, "min_mass has no effect without choices"),
        ({"min_probability": 0.5}, "min_probability has no effect without choices"),
        ({"choices": True, "min_mass": 1.5}, "parameters.min_mass: "),
        ({"choices": True, "min_probability": "0.5"}, "parameters.min_probability: "),
    ],
)
def test_refused_by_name(http: httpx.Client, asked: dict[str, Any], words: str) -> None:
    assert words in refusal(http, **asked)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("best_of", 2),
        ("num_return_sequences", 2),
        ("num_beams", 2),
        ("length_penalty", 1.0),
        ("early_stopping", True),
        ("do_sample", True),
        ("temperature", 0.5),
        ("top_k", 5),
        ("top_p", 0.5),
        ("seed", 3),
        ("stop", ["x"]),
        ("min_new_tokens", 2),
        ("max_new_tokens", 2),
        ("repetition_penalty", 1.2),
        ("no_repeat_ngram_size", 2),
    ],
)
def test_parameters_that_have_no_effect(http: httpx.Client, name: str, value: object) -> None:
    message = refusal(http, choices=True, **{name: value})
    assert message.startswith(f"parameters.{name}: has no effect with choices"), message


def test_what_clients_always_send_is_taken(http: httpx.Client) -> None:
    asked = {
        "do_sample": False, "stop": [], "n": 1, "best_of": 1, "num_beams": 1,
        "repetition_penalty": 1.0, "top_k": None, "seed": None, "temperature": 0,
        "watermark": False, "return_full_text": False,
    }  # fmt: skip
    plain = answer(http, "Sports", choices=True)
    assert answer(http, "Sports", choices=True, **asked) == plain
    free = answer(http, "Sports", choices=False)
    assert free == answer(http, "Sports", choices=None)
    assert "choices" not in free["details"]


def test_a_stream_is_refused(http: httpx.Client) -> None:
    body = {"task_id": "labels", "text": "x", "parameters": {"choices": True}}
    response = http.post("/generate_stream", json=body)
    assert response.status_code == 422
    assert response.json()["error"].startswith("parameters.choices: a stream shows tokens")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "has no options of its own; give a list of texts"),
        (tuple(f"option {n}" for n in range(257)), "257 options in the adapter's prompt; 1 to 256"),
        (("a", "A"), "choices: option 1 of the adapter's prompt: 'A' is the one at 0 again"),
        (("a", "b" * 64), "choices: option 1 of the adapter's prompt: 'bb"),
    ],
    ids=["none", "many", "twice", "long"],
)
def test_options_of_an_adapter_that_cannot_be_chosen_from(
    http: httpx.Client, site: Site, options: tuple[str, ...], words: str
) -> None:
    site.publish("odd", prompt=PromptSpec(template="{text}>", options=options))
    assert words in refusal(http, "x", "odd", choices=True)
    assert answer(http, "x", "odd", choices=["x", "y"])["generated_text"] == "x"


def test_the_bare_backbone_has_no_options(http: httpx.Client) -> None:
    body = {"task_id": None, "inputs": "b>", "parameters": {"choices": True}}
    response = http.post("/generate", json=body)
    assert "choices: the bare backbone has no options of its own" in response.json()["error"]


def test_a_backbone_without_an_end_token(tmp_path: Path) -> None:
    limits = EngineLimits(max_rows=4, max_source_tokens=64, max_target_tokens=8, end_token_ids=())
    with connected(start(tmp_path, limits)) as http:
        body = {"task_id": None, "inputs": "b>", "parameters": {"choices": ["a", "b"]}}
        response = http.post("/generate", json=body)
    assert "choices: this backbone has no end token" in response.json()["error"]


def test_an_option_longer_than_an_answer(tmp_path: Path) -> None:
    limits = EngineLimits(max_rows=4, max_source_tokens=64, max_target_tokens=8, end_token_ids=(1,))
    with connected(start(tmp_path, limits)) as http:
        body = {"task_id": None, "inputs": "b>", "parameters": {"choices": ["a", "b" * 8]}}
        response = http.post("/generate", json=body)
        words = "'bbbbbbbb' has 9 tokens with its end token; at most 8 are allowed: shorten it"
        assert words in response.json()["error"]
        body["parameters"] = {"choices": ["a", "b" * 7]}
        assert http.post("/generate", json=body).status_code == 200


def test_a_text_without_tokens(tmp_path: Path) -> None:
    """The demo's tokenizer drops characters without a width."""
    tokenizer = Tokenizer.load(DEMO)
    with connected(make_site(tmp_path, tokenizer=tokenizer, allow_base="yes")) as http:
        body = {"task_id": None, "inputs": "b", "parameters": {"choices": ["a", "\u200b"]}}
        response = http.post("/generate", json=body)
    assert "choices[1]: '\\u200b' has no tokens but the end token" in response.json()["error"]


# Control tokens


def test_control_tokens_are_characters_but_in_the_adapters_own(
    http: httpx.Client, site: Site
) -> None:
    own = PromptSpec(template="{text}>", options=("a<ctl>", "b"))
    site.publish("control", prompt=own)
    for offered, tokens in [(True, 3), (["a<ctl>", "b"], 3), (["a<ctl>c"], 8), (["</s>a"], 6)]:
        details = answer(http, "zz", "control", choices=offered)["details"]
        (found,) = [each for each in details["choices"] if "a" in each["text"]]
        assert found["logprob"] == pytest.approx(-3.0 * tokens)


def test_an_end_token_inside_an_adapters_own_option(http: httpx.Client, site: Site) -> None:
    site.publish("ends", prompt=PromptSpec(template="{text}>", options=("a</s>b", "b")))
    message = refusal(http, "x", "ends", choices=True)
    assert "option 0 of the adapter's prompt: 'a</s>b' has an end token inside" in message
    assert answer(http, "x", "ends", choices=["</s>", "b"])["generated_text"] == "b"


# What happens beside


def test_options_are_read_once_for_a_version(http: httpx.Client, site: Site) -> None:
    kept = site.parts.services.options
    offered = ["kept once", "kept too"]
    before = len(kept)
    first = answer(http, "x", choices=offered)
    assert answer(http, "x", choices=offered) == first
    assert len(kept) == before + 1
    site.publish("labels", prompt=PROMPT)
    answer(http, "x", choices=offered)
    assert len(kept) == before + 2


def test_a_refused_request_leaves_nothing_behind(http: httpx.Client, site: Site) -> None:
    kept, admission = len(site.parts.services.options), site.parts.services.loop.admission
    refusal(http, choices=["a", "newtok"])
    refusal(http, ["x" * 5, "newtok"], choices=["a", "b"])
    assert admission.requests == 0
    assert site.parts.services.residency.status("labels").in_flight == 0
    assert len(site.parts.services.options) == kept + 1  # of the second, whose prompt was refused


def test_a_deadline(http: httpx.Client, site: Site) -> None:
    others = [f"{n:03}" + "x" * 20 for n in range(20)]
    with slow_down(site, 0.05):
        response = ask(http, "x", choices=[*others, "x"], timeout_ms=60)
    assert (response.status_code, response.json()["error_type"]) == (504, "timeout")
    wait_for(lambda: site.parts.services.residency.status("labels").in_flight == 0)


def test_numbers_that_are_not_finite(http: httpx.Client, site: Site) -> None:
    site.engine.nonfinite.add(site.publish("wild", prompt=PROMPT))
    response = ask(http, "x", "wild", choices=True)
    assert (response.status_code, response.json()["reason"]) == (500, "nonfinite")
