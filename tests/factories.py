"""Small real things for tests: random T5 checkpoints with a tokenizer, and adapters for them.

Everything is seeded and written with the same libraries that real checkpoints come from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram

from jumplora_adapters.architecture import architecture_of
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.checkpoint import Checkpoint
from jumplora_adapters.delta import CombinedDelta, Delta, LowRankDelta, SparseDelta
from jumplora_adapters.format import Factors, describe, write_adapter
from jumplora_adapters.generation import Generation
from jumplora_adapters.manifest import Kind, Manifest, ProfileSpec, PromptSpec
from jumplora_adapters.network import Role, Site
from jumplora_adapters.profile import Profile

Style = Literal["v1.0", "v1.1", "mt5", "umt5"]
BYTE_FALLBACK = ("mt5", "umt5")
TEXT = (
    "the a of and to in is was it for on as with he she they this that good bad film book river "
    "city sport world business science music great poor never always question answer text task "
    "label positive negative true false yes no maybe red green blue one two three four five"
)
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"()|{}-_/\n"


def tiny_tokenizer(vocab: int = 512, *, style: Style = "v1.1") -> Tokenizer:
    """A Unigram tokenizer of exactly `vocab` tokens: pad 0, eos 1 (appended), unk 2.

    Styles mt5 and umt5 fall back to bytes, so that any text survives the round trip and half
    characters occur; the others know ASCII and turn the rest into unk.
    """
    pieces: list[tuple[str, float]] = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    if style in BYTE_FALLBACK:
        pieces += [(f"<0x{byte:02X}>", -15.0) for byte in range(256)]
    pieces += [("▁", -4.0)]
    pieces += [(character, -6.0) for character in CHARACTERS]
    pieces += [(f"▁{word}", -5.0 - index / 64) for index, word in enumerate(TEXT.split())]
    spare = vocab - len(pieces)
    if spare < 0:
        raise ValueError(f"vocab {vocab} given; style {style} needs at least {len(pieces)}")
    pairs = [first + second for first in "etaoinshrdlu" for second in "etaoinshrdlucmfwyp"]
    fillers = pairs + [f"▁w{index}" for index in range(spare)]
    pieces += [(piece, -8.0 - index / 64) for index, piece in enumerate(fillers[:spare])]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=style in BYTE_FALLBACK))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    metaspace = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = (
        decoders.Sequence([decoders.ByteFallback(), metaspace])
        if style in BYTE_FALLBACK
        else metaspace
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def tiny_t5(
    folder: Path,
    *,
    style: Style = "v1.1",
    seed: int = 0,
    vocab: int = 512,
    d_model: int = 32,
    d_kv: int = 8,
    heads: int = 4,
    d_ff: int = 48,
    layers: int = 2,
    decoder_layers: int | None = None,
    dtype: torch.dtype = torch.float32,
    fields: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Write a random T5 checkpoint (safetensors, config, tokenizer) and return its folder.

    v1.0 is ReLU with a tied head, v1.1 gated GELU with a head of its own, mt5 that with byte
    fallback, umt5 that with a position bias in every block. config.json says so in the words of
    the published checkpoints; `fields` are written over it.
    """
    # Imported here because it takes seconds, and most tests need no checkpoint.
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    sizes: dict[str, Any] = {
        "vocab_size": vocab,
        "d_model": d_model,
        "d_kv": d_kv,
        "d_ff": d_ff,
        "num_heads": heads,
        "num_layers": layers,
        "num_decoder_layers": layers if decoder_layers is None else decoder_layers,
        "feed_forward_proj": "relu" if style == "v1.0" else "gated-gelu",
        "tie_word_embeddings": style == "v1.0",
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 32,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.0,
        **fields,
    }
    model_type = style if style in BYTE_FALLBACK else "t5"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: torch.nn.Module = AutoModelForSeq2SeqLM.from_config(
            AutoConfig.for_model(model_type, **sizes)
        )
        architecture = type(model).__name__
        weights = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
        weights["lm_head.weight"] = torch.randn(vocab, d_model).to(dtype)
    if style == "v1.0":
        # A tied head over large random embeddings only ever repeats the token before.
        weights["shared.weight"] = weights["shared.weight"] * 0.05
    # Norms are initialised to one, which would hide a norm that is left out.
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in weights.items():
        if name.endswith("norm.weight"):
            noise = torch.randn(tensor.shape, generator=generator) * 0.1
            weights[name] = (tensor.float() + noise).to(dtype)
    for shared in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        weights.pop(shared, None)
    if style == "v1.0":
        del weights["lm_head.weight"]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = {
        **sizes,
        "architectures": [architecture],
        "model_type": model_type,
        "is_encoder_decoder": True,
    }
    _write_json(folder / "config.json", config)
    tokens = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
    generation = {name: sizes[name] for name in tokens}
    _write_json(folder / "generation_config.json", generation)
    tiny_tokenizer(vocab, style=style).save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **special},
    )
    return folder


def toy_backbone(
    shapes: Mapping[str, tuple[int, int]] | None = None,
    *,
    fingerprint: str = "ab" * 32,
    former: str = "ba" * 32,
) -> Backbone:
    """A backbone without a checkpoint, for tests that never run it: q, v and o, odd-sized.

    Of the given `shapes`, or the three, `targets` are q and v. `former` is its fingerprint of
    version 1.
    """
    base = "encoder.block.0.layer.0.SelfAttention"
    if shapes is None:
        shapes = {f"{base}.q": (3, 5), f"{base}.v": (3, 5), f"{base}.o": (5, 3)}
    roles: Mapping[str, Role] = {"q": "q", "k": "k", "v": "v", "o": "o", "wo": "wo"}
    sites = {
        name: Site(name, shape, "encoder", 0, "self", roles.get(name.rpartition(".")[2], "q"))
        for name, shape in shapes.items()
    }
    targets = {name: site.shape for name, site in sites.items() if site.role in ("q", "v")}
    return Backbone(
        path=Path("toy"),
        name="toy",
        fingerprints=(fingerprint, former),
        architecture=architecture_of({"model_type": "t5", "d_model": 5}),
        sites=MappingProxyType(sites),
        targets=MappingProxyType(targets),
        checkpoint=Checkpoint(MappingProxyType({})),
        generation=Generation(start_token_id=0, end_token_ids=(1,)),
    )


def random_adapter(
    backbone: Backbone,
    *,
    task: str = "task",
    density: float = 0.1,
    seed: int = 0,
    kind: Kind = "masked",
    lineage: Sequence[str] = (),
    scale: float = 0.5,
    rank: int = 4,
    dtype: torch.dtype = torch.float32,
    targets: Sequence[str] | None = None,
    prompt: PromptSpec | None = None,
    created: str = "2026-01-01T00:00:00Z",
) -> tuple[Manifest, dict[str, Delta]]:
    """Random deltas for a backbone, entries normal with standard deviation `scale`.

    Of kind combined, the modules have both parts, a mask, factors, and so on.
    """
    generator = torch.Generator().manual_seed(seed)
    names = tuple(backbone.targets if targets is None else targets)
    deltas: dict[str, Delta] = {}

    def sparse(d_out: int, d_in: int) -> SparseDelta:
        values = torch.randn(d_out, d_in, generator=generator) * scale
        keep = torch.rand(d_out, d_in, generator=generator) < density
        return SparseDelta.from_dense(values * keep, dtype)

    def low_rank(d_out: int, d_in: int) -> LowRankDelta:
        factor_a = torch.randn(rank, d_in, generator=generator)
        factor_b = torch.randn(d_out, rank, generator=generator) * (scale / rank**0.5)
        return LowRankDelta(factor_a.to(dtype), factor_b.to(dtype))

    for number, name in enumerate(names):
        shape = backbone.sites[name].shape
        form = ("both", "masked", "lowrank")[number % 3] if kind == "combined" else kind
        if form == "both":
            deltas[name] = CombinedDelta(sparse(*shape), low_rank(*shape))
        else:
            deltas[name] = sparse(*shape) if form == "masked" else low_rank(*shape)
    manifest = Manifest(
        kind=kind,
        task=task,
        backbone=backbone.ref(),
        targets=names,
        rank=rank,
        alpha=float(rank),
        method="random",
        lineage=tuple(lineage),
        prompt=prompt,
        created=created,
    )
    return describe(manifest, deltas), deltas


def random_profile(
    *,
    width: int = 3,
    tokens: int = 4,
    dev_texts: int = 2,
    dev_length: int = 5,
    group: str | None = None,
    seed: int = 0,
) -> tuple[ProfileSpec, Profile]:
    """A profile of random features."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(9, width, generator=generator)
    rows, columns = torch.tril_indices(width, width)
    spec = ProfileSpec(
        features="random", width=width, texts=9, tokens=tokens, dev_texts=dev_texts,
        dev_length=dev_length, embedding="ef" * 32, group=group,
    )  # fmt: skip
    return spec, Profile(
        sum=features.sum(0),
        gram=(features.T @ features)[rows, columns],
        ids=torch.arange(tokens, dtype=torch.int32) * 2,
        counts=torch.arange(1, tokens + 1, dtype=torch.int32),
        dev=torch.randn(dev_texts, width, generator=generator),
        dev_ids=torch.full((dev_texts, dev_length), -1, dtype=torch.int32),
    )


def write_random_adapter(
    folder: Path,
    backbone: Backbone,
    *,
    factors: Factors | None = None,
    task: str = "task",
    seed: int = 0,
    **options: Any,
) -> Path:
    """Write `random_adapter(...)` as <folder>/<task>-<seed>.safetensors."""
    manifest, deltas = random_adapter(backbone, task=task, seed=seed, **options)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task}-{seed}.safetensors"
    write_adapter(path, manifest, deltas, factors)
    return path


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
