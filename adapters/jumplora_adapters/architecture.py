"""What a backbone computes: the one reader of config.json.

Fields and defaults are those of transformers' T5Config, MT5Config and UMT5Config. A field that
would change what the network computes, and that is not obeyed here, is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from jumplora_adapters.checkpoint import read_json_object
from jumplora_adapters.errors import BackboneError

MAX_LAYERS = 256
MAX_D_MODEL = 65_535  # a column of a delta is 2 bytes
# Of attention and feed-forward: sums of so many 8-bit products fit 32 bits, with room to spare.
MAX_WIDTH = 65_536
MAX_SIZE = 1 << 24  # of the rest

ModelType = Literal["t5", "mt5", "umt5"]
Family = Literal["t5"]  # of model types whose networks differ in names and tables alone
Activation = Literal["relu", "gelu_tanh", "gelu", "silu"]

_MT5: Mapping[str, int | str] = {
    "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 6, "num_layers": 8,
    "vocab_size": 250_112, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
_DEFAULTS: Mapping[ModelType, Mapping[str, int | str]] = {
    "t5": {
        "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8, "num_layers": 6,
        "vocab_size": 32_128, "feed_forward_proj": "relu",
    },
    "mt5": _MT5,
    "umt5": _MT5,
}  # fmt: skip
_FAMILIES: Mapping[ModelType, Family] = {"t5": "t5", "mt5": "t5", "umt5": "t5"}
_RELATIVES = {
    "longt5": "LongT5, whose encoder attends to a window and to summaries",
    "switch_transformers": "Switch Transformers, whose feed-forwards are many experts",
    "t5gemma": "T5Gemma, which has Gemma's layers",
    "t5gemma2": "T5Gemma 2, which has Gemma's layers",
    "pix2struct": "Pix2Struct, which reads images",
    "pop2piano": "Pop2Piano, which reads sound",
    "udop": "UDOP, which reads images",
}
"""What is near to T5 and computed in another way, for the message that refuses it."""
_FUNCTIONS: Mapping[str, Activation] = {
    "relu": "relu",
    "gelu_new": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "silu": "silu",
    "swish": "silu",
}
"""transformers' names of activations that are computed; several are one function."""
_GATED = "gated-"
# Other names of the same sizes; transformers lets them win over the name itself.
_SYNONYMS = {
    "hidden_size": "d_model",
    "head_dim": "d_kv",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
}
_REFUSED = {
    "auto_map": "code that comes with a model is never run",
    "configuration_files": "another file's configuration is not read",
    "per_layer_config": "layers of different kinds are not computed",
    "quantization_config": "quantized weights are not read; save the model in float32 or bfloat16",
    "transformers_weights": "weights are read from model.safetensors or its index; rename the file",
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """All of config.json that decides what the network computes."""

    model_type: ModelType
    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_layers: int  # of the encoder
    vocab_size: int
    num_decoder_layers: int
    relative_attention_num_buckets: int
    relative_attention_max_distance: int
    layer_norm_epsilon: float
    feed_forward_proj: str  # as the file has it; what it means is in `activation` and `is_gated`
    scales_decoder_outputs: bool

    @property
    def family(self) -> Family:
        """Which models compute it."""
        return _FAMILIES[self.model_type]

    @property
    def inner(self) -> int:
        """Width of the attention projections."""
        return self.num_heads * self.d_kv

    @property
    def is_gated(self) -> bool:
        """Whether a feed-forward has a gate, whose activation is multiplied with the other half."""
        return self.feed_forward_proj.startswith(_GATED)

    @property
    def activation(self) -> Activation:
        """The function between a feed-forward's products."""
        return _FUNCTIONS[_activation_name(self.feed_forward_proj)]

    @property
    def logit_scale(self) -> float:
        """What the decoder's output is multiplied by before the head."""
        return self.d_model**-0.5 if self.scales_decoder_outputs else 1.0

    def as_json(self) -> dict[str, JsonValue]:
        """The fields by name, as manifests and fingerprints hold them."""
        return {field.name: getattr(self, field.name) for field in fields(Architecture)}


def read_architecture(folder: Path) -> Architecture:
    """Of a checkpoint folder's config.json. Raises BackboneError."""
    return architecture_of(read_json_object(config_file(folder)))


def config_file(folder: Path) -> Path:
    """The config.json of a checkpoint folder. Raises BackboneError for a folder without one."""
    path = folder / "config.json"
    if not path.is_file():
        raise BackboneError(f"{folder} is not a checkpoint folder: it has no config.json")
    return path


def architecture_of(config: Mapping[str, object]) -> Architecture:
    """Of the content of a config.json, with defaults filled in.

    Raises BackboneError for a network that is not of the T5 family, and for values that cannot be
    computed with.
    """
    for field, reason in _REFUSED.items():
        if config.get(field) is not None:
            raise BackboneError(f"config.json has {field}: {reason}")
    model_type = _family(config)
    if config.get("is_encoder_decoder", True) is not True:
        raise BackboneError(
            f"config.json: is_encoder_decoder is {config['is_encoder_decoder']!r}; a T5 with both "
            "stacks is needed, so true is allowed"
        )
    layers = _size(config, model_type, "num_layers", MAX_LAYERS)
    architecture = Architecture(
        model_type=model_type,
        d_model=_size(config, model_type, "d_model", MAX_D_MODEL),
        d_kv=_size(config, model_type, "d_kv", MAX_WIDTH),
        d_ff=_size(config, model_type, "d_ff", MAX_WIDTH),
        num_heads=_size(config, model_type, "num_heads", MAX_WIDTH),
        num_layers=layers,
        vocab_size=_size(config, model_type, "vocab_size", MAX_SIZE),
        num_decoder_layers=_whole(
            "num_decoder_layers",
            layers if (given := config.get("num_decoder_layers")) is None else given,
            MAX_LAYERS,
        ),
        relative_attention_num_buckets=_whole(
            "relative_attention_num_buckets",
            config.get("relative_attention_num_buckets", 32),
            MAX_SIZE,
        ),
        relative_attention_max_distance=_whole(
            "relative_attention_max_distance",
            config.get("relative_attention_max_distance", 128),
            MAX_SIZE,
        ),
        layer_norm_epsilon=_epsilon(config),
        feed_forward_proj=_feed_forward(config, model_type),
        scales_decoder_outputs=_scales_decoder_outputs(config, model_type),
    )
    _check_together(architecture)
    return architecture


def _family(config: Mapping[str, object]) -> ModelType:
    given = config.get("model_type")
    for known in _DEFAULTS:
        if given == known:
            return known
    name = _RELATIVES.get(given) if isinstance(given, str) else None
    described = "" if name is None else f" ({name})"
    raise BackboneError(
        f"config.json: model_type is {given!r}{described}; allowed are {', '.join(_DEFAULTS)}"
    )


def _size(config: Mapping[str, object], model_type: ModelType, name: str, most: int) -> int:
    size = _whole(name, config.get(name, _DEFAULTS[model_type][name]), most)
    for synonym, meant in _SYNONYMS.items():
        if meant == name and config.get(synonym, size) != size:
            raise BackboneError(
                f"config.json: {synonym} is {config[synonym]!r}, but {name} is {size}; both name "
                f"one size: remove {synonym}, and write the size as {name}"
            )
    return size


def _whole(name: str, value: object, most: int) -> int:
    # type(): JSON's true is an int to Python
    if type(value) is not int or not 0 < value <= most:
        raise BackboneError(f"config.json: {name} is {value!r}; 1 to {most} is allowed")
    return value


def _epsilon(config: Mapping[str, object]) -> float:
    epsilon = config.get("layer_norm_epsilon", 1e-6)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise BackboneError(
            f"config.json: layer_norm_epsilon is {epsilon!r}; a number between 0 and 1 is allowed"
        )
    return epsilon


def _feed_forward(config: Mapping[str, object], model_type: ModelType) -> str:
    given = config.get("feed_forward_proj", _DEFAULTS[model_type]["feed_forward_proj"])
    name = _activation_name(given) if isinstance(given, str) else ""
    if name not in _FUNCTIONS:
        raise BackboneError(
            f"config.json: feed_forward_proj is {given!r}; allowed are {', '.join(_FUNCTIONS)}, "
            f"each also with {_GATED} before it"
        )
    assert isinstance(given, str)
    # transformers derives both from feed_forward_proj, and then lets the fields win.
    for field, value in (("dense_act_fn", name), ("is_gated_act", given.startswith(_GATED))):
        if (said := config.get(field, value)) != value:
            raise BackboneError(
                f"config.json: {field} is {said!r}, which contradicts feed_forward_proj {given!r}; "
                f"with that, {field} is {value!r} or not given"
            )
    return given


def _activation_name(feed_forward: str) -> str:
    """transformers' name of the function; a gated "gelu" is the one that mT5 and v1.1 have."""
    if feed_forward == f"{_GATED}gelu":
        return "gelu_new"
    return feed_forward.removeprefix(_GATED)


def _scales_decoder_outputs(config: Mapping[str, object], model_type: ModelType) -> bool:
    # T5 v1.0 multiplies the decoder's output by d_model ** -0.5 before its tied head. Old files say
    # so by tie_word_embeddings; transformers 5 always writes that as true and adds its own field.
    # No published umT5 was trained so. transformers 5 does it to all of them, since it takes
    # tie_word_embeddings for true: for umT5 that says nothing, and the other field alone counts.
    if model_type == "mt5":  # never, whatever its files say
        return False
    usual = model_type == "t5" and config.get("tie_word_embeddings") is not False
    explicit = config.get("scale_decoder_outputs", usual)
    if not isinstance(explicit, bool):
        raise BackboneError(
            f"config.json: scale_decoder_outputs is {explicit!r}; true or false is allowed"
        )
    return explicit


def _check_together(architecture: Architecture) -> None:
    if architecture.inner > MAX_WIDTH:
        raise BackboneError(
            f"config.json: num_heads * d_kv is {architecture.inner}; at most {MAX_WIDTH} is allowed"
        )
    buckets = architecture.relative_attention_num_buckets
    distance = architecture.relative_attention_max_distance
    if buckets < 4 or distance <= buckets // 2:
        raise BackboneError(
            f"config.json: relative_attention_num_buckets is {buckets} and "
            f"relative_attention_max_distance {distance}; allowed are at least 4 buckets and a "
            "distance of more than half of them: otherwise a logarithm is undefined"
        )
