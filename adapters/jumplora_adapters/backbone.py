"""Which frozen T5 the adapters belong to: its identity and the modules they may add to.

Reads configuration, headers and the target weights; running the model is the server's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from pydantic import JsonValue

from jumplora_adapters.checkpoint import read_json_object, weight_files
from jumplora_adapters.errors import BackboneError
from jumplora_adapters.fingerprint import fingerprint, tokenizer_digest, weight_digests
from jumplora_adapters.generation import Generation, read_generation
from jumplora_adapters.manifest import BackboneRef

MODEL_TYPES = ("t5", "mt5")
MAX_LAYERS = 256
MAX_SIZE = 1 << 24
HUB_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "spiece.model",
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_SIZES = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "vocab_size")


@dataclass(frozen=True, slots=True)
class Backbone:
    """A checkpoint folder that was read and may carry adapters.

    `targets` maps every module that an adapter may change to its (d_out, d_in): the q and v
    projections of encoder self, decoder self and cross attention, in the order of the network.
    """

    path: Path
    name: str
    fingerprint: str
    architecture: dict[str, JsonValue]
    targets: Mapping[str, tuple[int, int]]
    generation: Generation

    def ref(self) -> BackboneRef:
        """How a manifest names this backbone."""
        return BackboneRef(
            fingerprint=self.fingerprint, name=self.name, architecture=self.architecture
        )


def _fetch(hub_id: str, revision: str | None) -> str:
    import httpx  # both are slow to import and rarely needed
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(hub_id, revision=revision, allow_patterns=list(HUB_FILES))
    except httpx.HTTPError as error:
        raise ConnectionError(str(error)) from error


def resolve_backbone(
    name_or_path: str,
    *,
    revision: str | None = None,
    fetch: Callable[[str, str | None], str] = _fetch,
) -> Path:
    """A local folder as it is; otherwise the hub repository's snapshot. Raises BackboneError.

    Of a hub repository only safetensors, configuration and tokenizer files are fetched.
    """
    folder = Path(name_or_path).expanduser()
    if name_or_path and folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(name_or_path):
        raise BackboneError(f"{name_or_path!r} is neither a folder nor a hub id")
    try:
        return Path(fetch(name_or_path, revision))
    except (OSError, ValueError, RuntimeError) as error:  # of the hub's client and its transport
        reason = str(error).strip().partition("\n")[0]
        raise BackboneError(
            f"{name_or_path!r} is no folder here and could not be fetched: {reason}"
        ) from error


def read_backbone(path: Path) -> Backbone:
    """Read a checkpoint folder of the T5 family. Raises BackboneError.

    Hashing the target weights takes about a second per gigabyte, so the answer is kept as long as
    no file of the folder changes.
    """
    folder = path.resolve()
    if not (folder / "config.json").is_file():
        raise BackboneError(f"{path} is no checkpoint folder: it has no config.json")
    state = tuple(
        (entry.name, stat.st_size, stat.st_mtime_ns)
        for entry in sorted(folder.iterdir())
        if entry.is_file() and (stat := entry.stat())
    )
    return _read(folder, state)


def target_shapes(architecture: Mapping[str, JsonValue]) -> dict[str, tuple[int, int]]:
    """(d_out, d_in) of every q and v projection, in the order of the network."""
    sizes = {key: value for key, value in architecture.items() if isinstance(value, int)}
    shape = (sizes["num_heads"] * sizes["d_kv"], sizes["d_model"])
    sites = [f"encoder.block.{i}.layer.0.SelfAttention" for i in range(sizes["num_layers"])]
    for i in range(sizes["num_decoder_layers"]):
        sites.append(f"decoder.block.{i}.layer.0.SelfAttention")
        sites.append(f"decoder.block.{i}.layer.1.EncDecAttention")
    return {f"{site}.{projection}": shape for site in sites for projection in ("q", "v")}


def read_architecture(config: Mapping[str, object]) -> dict[str, JsonValue]:
    """The fields of config.json that decide what the network computes, defaults filled in.

    Raises BackboneError for code to be trusted, another family than T5, or a missing size.
    """
    if "auto_map" in config:
        raise BackboneError("config.json has auto_map: code that comes with a model is never run")
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise BackboneError(
            f"model_type {model_type!r} given; allowed are {', '.join(MODEL_TYPES)}"
        )
    fields: dict[str, JsonValue] = {"model_type": str(model_type)}
    for key in _SIZES:
        fields[key] = _positive(config, key, None)
    fields["num_decoder_layers"] = _positive(config, "num_decoder_layers", fields["num_layers"])
    fields["relative_attention_num_buckets"] = _positive(
        config, "relative_attention_num_buckets", 32
    )
    fields["relative_attention_max_distance"] = _positive(
        config, "relative_attention_max_distance", 128
    )
    epsilon = config.get("layer_norm_epsilon", 1e-6)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise BackboneError(f"layer_norm_epsilon {epsilon!r} given; 0 to 1 is allowed")
    fields["layer_norm_epsilon"] = epsilon
    default_feed_forward = "relu" if model_type == "t5" else "gated-gelu"
    fields["feed_forward_proj"] = str(config.get("feed_forward_proj", default_feed_forward))
    fields["scales_decoder_outputs"] = _scales_decoder_outputs(config)
    return fields


def _scales_decoder_outputs(config: Mapping[str, object]) -> bool:
    # T5 v1.0 multiplies the decoder's output by d_model ** -0.5 before the head. Old files tell by
    # tie_word_embeddings; transformers 5 writes that one as true always and adds its own field.
    if config.get("model_type") != "t5":
        return False
    explicit = config.get("scale_decoder_outputs")
    if isinstance(explicit, bool):
        return explicit
    return config.get("tie_word_embeddings") is not False


def _positive(config: Mapping[str, object], key: str, default: JsonValue) -> int:
    value = config.get(key)
    if value is None:
        value = default
    most = MAX_LAYERS if key.endswith("_layers") else MAX_SIZE
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise BackboneError(f"config.json: {key} is {value!r}; 1 to {most} is allowed")
    return value


@lru_cache(maxsize=8)
def _read(folder: Path, state: tuple[tuple[str, int, int], ...]) -> Backbone:
    del state  # only the cache's key: another size or time of a file is another backbone
    architecture = read_architecture(read_json_object(folder / "config.json"))
    generation = read_generation(folder, _positive(architecture, "vocab_size", None))
    targets = target_shapes(architecture)
    weights = weight_digests(
        weight_files(folder), {f"{name}.weight": shape for name, shape in targets.items()}
    )
    return Backbone(
        path=folder,
        name=_name_of(folder),
        fingerprint=fingerprint(architecture, tokenizer_digest(folder), weights),
        architecture=architecture,
        targets=MappingProxyType(targets),
        generation=generation,
    )


def _name_of(folder: Path) -> str:
    # A hub snapshot lies in models--owner--name/snapshots/<commit>.
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return folder.name
