"""Odd JSON: its bytes, its shape, and every value that a request has."""

from __future__ import annotations

import json
import random

from jumplora_bench.reliability.siege.shot import INVALID, TASKS, Kind, Shot, body_of, post

_GENERATES = ("/generate", "/generate", "/generate_stream", "/v1/tasks/agnews/generate")
_TEXTS = (
    "\x00", "\x1b[31m", "\x7f\x80\x9f", "\u202ekcab\u2066", "\u200e\u200f\u061c", "\u2028\u2029",
    "\ufeff", "\ufffe\uffff", "\U0010ffff", "e\u0301" * 40, "\u0301" * 2000, "</s>",
    "\U0001f469\u200d\U0001f467" * 50,
    "<pad></s><unk>", "<extra_id_0><extra_id_99>", "▁" * 300, " ", "\n\n\t", "ﷺ" * 300, "a" * 5000,
    "\u00a0\u3000", "İıſK", "{instruction} {text} {0} %s", "Ａ", "-" * 4000, "0" * 4000, "ß" * 3000,
)  # fmt: skip
ODD_VALUES: tuple[object, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63), 2**64, 10**400, 0.0, -0.0, 0.5,
    1.0,
    1e-300, 5e-324, 1e308, 1e-7, "", "1", "a", [], {}, [1], ["a"], {"a": 1}, [[]], [None],
)  # fmt: skip
_PARAMETERS = (
    "max_new_tokens", "min_new_tokens", "do_sample", "temperature", "top_k", "top_p",
    "repetition_penalty", "seed", "stop", "truncate", "details", "timeout_ms", "adapter_id",
    "no_repeat_ngram_size", "num_beams", "length_penalty", "early_stopping", "n", "best_of",
    "num_return_sequences",
)  # fmt: skip


def _shot(rng: random.Random, body: object, allowed: frozenset[int] | None = None) -> Shot:
    return Shot(post(body, rng.choice(_GENERATES)), allowed=allowed)


def _text(rng: random.Random) -> str:
    return "".join(rng.choice((*_TEXTS, "word ")) for _ in range(rng.randrange(1, 4)))


def odd_text(rng: random.Random) -> Shot:
    """Control, bidi and special characters as a prompt, as a text, in a list, as a stop string."""
    text = _text(rng)
    body = body_of(rng, text=rng.choice((text, [text, "a"])))
    if rng.random() < 0.3:
        body = {"task_id": body["task_id"], "inputs": text, "parameters": {"stop": [text[:64]]}}
    return _shot(rng, body)


def odd_task(rng: random.Random) -> Shot:
    """Unknown tasks, and names and versions that are nearly right."""
    task = rng.choice(TASKS)
    names: tuple[object, ...] = (
        task[:-1], task + "s", task.upper(), f" {task}", f"{task}\n", f"../{task}",
        f"{task}/../{task}",
        f"{task}@", f"@{task}", "@", f"{task}@@x", f"{task}@zz", f"{task}@{'0' * 7}",
        f"{task}@{'0' * 64}", f"{task}@{'f' * 65}", f"{task}@latest", f"{task}@{'A' * 8}", "base",
        "base@x", "", "a" * 64, "a" * 65, "a" * 50_000, "аgnews", "agnews\u202e", "\x1b[2J", "\x00",
        _text(rng), f"unknown-{rng.randrange(10**6)}", ".", "..", ".lock", "nul", "*", "%61gnews",
        5,
    )  # fmt: skip
    place = rng.choice(("task_id", "adapter_id", "model"))
    body = body_of(rng)
    del body["task_id"]
    return _shot(rng, {**body, place: rng.choice(names)})


def odd_parameter(rng: random.Random) -> Shot:
    """One to three parameters with values out of bounds, at them, or of another type."""
    names = rng.sample(_PARAMETERS, rng.randrange(1, 4))
    return _shot(rng, body_of(rng, parameters={name: rng.choice(ODD_VALUES) for name in names}))


def extreme_sampling(rng: random.Random) -> Shot:
    """Sampling at the ends of what is allowed."""
    parameters = {
        "do_sample": True,
        "temperature": rng.choice((0.01, 0.02, 1.0, 10.0, 100.0)),
        "top_k": rng.choice((1, 2, 50, 1000, 2**31 - 1)),
        "top_p": rng.choice((1e-9, 0.01, 0.5, 0.999999, 1.0)),
        "repetition_penalty": rng.choice((0.1, 0.5, 1.0, 2.0, 10.0)),
        "max_new_tokens": rng.choice((1, 8, 128)),
        "min_new_tokens": rng.choice((0, 1, 8)),
        "seed": rng.choice((0, 1, 2**31, 2**63 - 1)),
        "details": True,
        "timeout_ms": rng.choice((1, 50, 60_000)),
    }
    kept = rng.sample(sorted(parameters), rng.randrange(2, len(parameters)))
    return _shot(rng, body_of(rng, parameters={name: parameters[name] for name in kept}))


def several_answers(rng: random.Random) -> Shot:
    """Beams and samples of all widths, with what goes with them and what does not."""
    parameters = {
        "num_beams": rng.choice((1, 2, 4, 16)),
        "length_penalty": rng.choice((-10.0, 0.0, 1.0, 10.0)),
        "early_stopping": rng.choice((True, False, "never")),
        "num_return_sequences": rng.choice((1, 2, 16)),
        "no_repeat_ngram_size": rng.choice((0, 1, 3, 8192)),
        "min_new_tokens": rng.choice((0, 8, 128)),
        "best_of": rng.choice((1, 3, 16)),
        "do_sample": rng.random() < 0.3,
        "details": True,
        "timeout_ms": rng.choice((1, 50, 60_000)),
    }
    kept = rng.sample(sorted(parameters), rng.randrange(1, len(parameters)))
    return _shot(rng, body_of(rng, parameters={name: parameters[name] for name in kept}))


def odd_stops(rng: random.Random) -> Shot:
    """Stop strings: empty, long, many, of special tokens, of half characters."""
    stop = [
        _text(rng)[: rng.choice((1, 4, 40, 5000))] for _ in range(rng.choice((1, 2, 4, 9, 300)))
    ]
    return _shot(rng, body_of(rng, parameters={"stop": stop, "max_new_tokens": 8}))


def many_prompts(rng: random.Random) -> Shot:
    """As many prompts as are allowed, one more, many more; short, long and empty ones."""
    count = rng.choice((0, 1, 16, 64, 65, 5000))
    texts = [rng.choice(("", " ", "word", "word " * 100, _text(rng))) or "a" for _ in range(count)]
    if texts and rng.random() < 0.2:
        texts[rng.randrange(count)] = ""
    parameters = {"max_new_tokens": 2, "details": rng.random() < 0.5}
    return _shot(rng, body_of(rng, text=texts, parameters=parameters))


def long_prompt(rng: random.Random) -> Shot:
    """Around the limits of one text and of a body."""
    size = rng.choice((60_000, 65_536, 65_537, 200_000, 1_000_000, 1_048_576, 1_200_000))
    unit = rng.choice(("a", "a b ", "é", "\\u202e", "<extra_id_1>"))
    parameters = {"max_new_tokens": 1, "truncate": 500} if rng.random() < 0.5 else {}
    raw = post(body_of(rng, text=unit * (size // len(unit)), parameters=parameters))
    return Shot(raw, may_be_cut=True)


def duplicate_keys(rng: random.Random) -> Shot:
    """A key twice: a proxy may have read the other value."""
    text = json.dumps(body_of(rng))
    task = rng.choice(TASKS)
    ways = (
        text[:-1] + f', "task_id": "{task}"}}', f'{{"task_id": "{task}", {text[1:]}',
        text.replace('"parameters": {', '"parameters": {"max_new_tokens": 3, '),
        text.replace('"text"', '"text": "x", "te\\u0078t"'),
        text[:-1] + ', "parameters": {}}',
    )  # fmt: skip
    return _shot(rng, rng.choice(ways).encode(), INVALID)


def deep(rng: random.Random) -> Shot:
    """Nesting deeper than any parser's stack."""
    depth = rng.choice((60, 200, 1000, 10_000, 100_000))
    opened, closed = rng.choice((("[", "]"), ('{"a":', "}"), ('[{"text":', "}]")))
    whole = opened * depth + "1" + (closed * depth if rng.random() < 0.7 else "")
    place = rng.choice(
        ("%s", '{"text": %s}', '{"task_id": "agnews", "text": "a", "parameters": %s}')
    )
    return _shot(rng, (place % whole).encode(), INVALID)


def odd_number(rng: random.Random) -> Shot:
    """Numbers as JSON writes them, or must not."""
    digits = rng.choice((
        "1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1e-400", "9" * 400, "9" * 5000,
        "1" * 100_000,
        "-0", "-0.0", "01", "1.", ".5", "+1", "0x10", "1_000", "1e", "1E+2",
        "1.0000000000000000001",
        "1" + "0" * 30, "0." + "0" * 5000 + "1", "1e99999999999999999999", "١",
    ))  # fmt: skip
    name = rng.choice(_PARAMETERS[:8])
    body = f'{{"task_id": "agnews", "text": "a", "parameters": {{"{name}": {digits}}}}}'
    return _shot(rng, body.encode())


def odd_bytes(rng: random.Random) -> Shot:
    """Bytes that are not UTF-8, lone surrogates, marks at the front, raw controls in a string."""
    body = json.dumps(body_of(rng)).encode()
    odd = rng.choice((
        b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xe2\x82", b"\x80",
        b"\x00",
        b"\n", b"\\ud800", b"\\udfff\\ud800", b"\\u12", b"\\x41", b"\\", b"\\u0000",
        b"\xf4\x90\x80\x80",
    ))  # fmt: skip
    place = rng.choice((b"Oil", b"agnews", b"subject", b"register", b"text", b"parameters"))
    body = body.replace(place, place[:1] + odd + place[1:], 1)
    return _shot(rng, rng.choice((b"", b"", b"\xef\xbb\xbf", b"\xff\xfe")) + body)


def no_object(rng: random.Random) -> Shot:
    """A body that is empty, another JSON value, cut, or more than one value."""
    sound = json.dumps(body_of(rng))
    raws = (
        "", " ", "\n" * 100_000, "null", "[]", "{}", "1", '"x"', "true", sound[: len(sound) // 2],
        sound + sound, sound + "x", f"[{sound}]", sound.replace('"', "'"), sound[:-1] + ",}",
        f"/* */{sound}", f'"{"a" * 900_000}', "{" * 100, sound + " " * 50_000 + "]",
    )  # fmt: skip
    return _shot(rng, rng.choice(raws).encode(), INVALID)


def unknown_keys(rng: random.Random) -> Shot:
    """Keys that the server does not know: one, many, long, with characters that act."""
    names = (
        "__proto__",
        "__class__",
        "\x1b[31m",
        "\u202e",
        "a" * 10_000,
        "",
        "tempreature",
        "\x00",
    )
    more = {rng.choice(names) + str(n): n for n in range(rng.choice((1, 3, 1000)))}
    body = body_of(rng, **more) if rng.random() < 0.5 else body_of(rng, parameters=more)
    return _shot(rng, body, INVALID)


def mutated(rng: random.Random) -> Shot:
    """A sound body with a few bytes changed, doubled, dropped or swapped."""
    body = bytearray(json.dumps(body_of(rng)).encode())
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(body))
        match rng.randrange(4):
            case 0:
                body[at] = rng.randrange(256)
            case 1:
                body[at:at] = body[at : at + rng.randrange(1, 30)]
            case 2:
                del body[at : at + rng.randrange(1, 10)]
                body = body or bytearray(b"{")
            case _:
                body.insert(at, rng.choice(b'{}[]",:\\0'))
    return _shot(rng, bytes(body))


BODIES: dict[str, Kind] = {
    "odd text": odd_text,
    "odd task": odd_task,
    "odd parameter": odd_parameter,
    "extreme sampling": extreme_sampling,
    "several answers": several_answers,
    "odd stops": odd_stops,
    "many prompts": many_prompts,
    "long prompt": long_prompt,
    "duplicate keys": duplicate_keys,
    "deep": deep,
    "odd number": odd_number,
    "odd bytes": odd_bytes,
    "no object": no_object,
    "unknown keys": unknown_keys,
    "mutated": mutated,
}
