"""What the walk over all routes asks of each, and of paths that have none."""

from __future__ import annotations

from dataclasses import dataclass

from tenants import ALIAS, HIDDEN, NEW, THEIRS

VERSION = "0" * 64
NAMES = ("staged", ALIAS, VERSION)  # of versions: those of HIDDEN[0], and of none
MESSAGES = [{"role": "user", "content": "x"}]
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x"]}
Body = dict[str, object] | bytes | None
FILE, FOREIGN = b"FILE", b"FOREIGN"  # stand for an adapter of the task, and for one of HIDDEN[0]


@dataclass(frozen=True)
class Row:
    """What is asked of a route. `{}` in a path or a body is the task; `changes` says whether an
    own task may be another one after it, which is then asked of two that stand it."""

    path: str
    bodies: tuple[Body, ...] = (None,)
    changes: bool = False
    version: str | None = None  # by a header


def posts(*bodies: Body) -> tuple[Body, ...]:
    """Bodies, and such as no route of these takes."""
    return (*bodies, b"{", {}, {"model": 1, "task_id": 1})


def named(**more: object) -> list[Body]:
    """Bodies with each of NAMES."""
    return [{"version": name, **more} for name in NAMES]


OF_VERSIONS: list[Body] = [{"task_id": f"{{}}@{name}", "inputs": "x"} for name in NAMES]
INFER = posts({"inputs": [TENSOR]}, {"inputs": [{**TENSOR, "name": "prompt"}], "id": "7"})
OF_A_PATH = posts({"inputs": "x"}, {"inputs": "x", "task_id": f"{THEIRS}-0"}, {"text": "x"})
TABLE: dict[tuple[str, str], tuple[Row, ...]] = {
    ("POST", "/"): (Row("/", posts({"task_id": "{}", "inputs": "x"}, {"inputs": "x"})),),
    ("POST", "/generate"): (
        Row(
            "/generate",
            posts(
                {"task_id": "{}", "inputs": "x"},
                *OF_VERSIONS,
                {"inputs": "x"},
                {"task_id": None, "inputs": "x"},
                {"task_id": "{}", "adapter_id": f"{THEIRS}-0", "inputs": "x"},
            ),
        ),
        *(Row("/generate", ({"task_id": "{}", "inputs": "x"},), version=name) for name in NAMES),
    ),
    ("POST", "/generate_stream"): (
        Row("/generate_stream", posts({"task_id": "{}", "inputs": "x"}, {"inputs": "x"})),
    ),
    ("POST", "/v1/tasks/{task_id:path}/generate"): (Row("/v1/tasks/{}/generate", OF_A_PATH),),
    ("POST", "/v1/tasks/{task_id:path}/generate_stream"): (
        Row("/v1/tasks/{}/generate_stream", OF_A_PATH),
    ),
    ("GET", "/v1/models"): (Row("/v1/models"),),
    ("GET", "/v1/models/{model:path}"): (
        Row("/v1/models/{}"), Row("/v1/models/toy"),
        *(Row(f"/v1/models/{{}}@{name}") for name in NAMES),
    ),
    ("POST", "/v1/completions"): (
        Row(
            "/v1/completions",
            posts(
                {"model": "{}", "prompt": "x"},
                {"model": "{}", "prompt": "x", "stream": True},
                {"prompt": "x"},
            ),
        ),
        Row("/v1/completions", ({"model": "{}", "prompt": "x"},), version=ALIAS),
    ),
    ("POST", "/v1/chat/completions"): (
        Row(
            "/v1/chat/completions",
            posts({"model": "{}", "messages": MESSAGES}, {"messages": MESSAGES}),
        ),
    ),
    ("GET", "/v2"): (Row("/v2"),),
    ("GET", "/v2/health/live"): (Row("/v2/health/live"),),
    ("GET", "/v2/health/ready"): (Row("/v2/health/ready"),),
    ("GET", "/v2/models/{model_name}"): (Row("/v2/models/{}"), Row("/v2/models/toy")),
    ("GET", "/v2/models/{model_name}/versions/{model_version}"): (
        *(Row(f"/v2/models/{{}}/versions/{name}") for name in NAMES),
    ),
    ("GET", "/v2/models/{model_name}/ready"): (Row("/v2/models/{}/ready"),),
    ("GET", "/v2/models/{model_name}/versions/{model_version}/ready"): (
        Row(f"/v2/models/{{}}/versions/{VERSION}/ready"),
    ),
    ("POST", "/v2/models/{model_name}/infer"): (Row("/v2/models/{}/infer", INFER),),
    ("POST", "/v2/models/{model_name}/versions/{model_version}/infer"): (
        *(Row(f"/v2/models/{{}}/versions/{name}/infer", INFER) for name in NAMES),
    ),
    ("POST", "/v1/load_lora_adapter"): (
        Row(
            "/v1/load_lora_adapter",
            posts(
                {"lora_name": "{}", "lora_path": "{}"},
                {"lora_name": "{}", "lora_path": HIDDEN[0], "load_inplace": True},
                {"lora_name": NEW, "lora_path": "{}"},
            ),
            changes=True,
        ),
    ),
    ("POST", "/v1/unload_lora_adapter"): (
        Row("/v1/unload_lora_adapter", posts({"lora_name": "{}"}), changes=True),
    ),
    ("GET", "/version"): (Row("/version"),),
    ("POST", "/tokenize"): (Row("/tokenize", posts({"model": "{}", "prompt": "x"})),),
    ("POST", "/detokenize"): (Row("/detokenize", posts({"model": "{}", "tokens": [2]})),),
    ("GET", "/v1/adapters"): (Row("/v1/adapters"),),
    ("POST", "/v1/adapters/{task_id:path}/rollback"): (
        Row("/v1/adapters/{}/rollback", posts(None, {"version": VERSION}), changes=True),
    ),
    ("POST", "/v1/adapters/{task_id:path}/stage"): (
        Row(
            "/v1/adapters/{}/stage",
            posts(*named(share=0.5), {"version": VERSION}),
        ),
    ),
    ("POST", "/v1/adapters/{task_id:path}/promote"): (
        Row("/v1/adapters/{}/promote", posts(None, *named())),
    ),
    ("POST", "/v1/adapters/{task_id:path}/unstage"): (
        Row("/v1/adapters/{}/unstage", posts(None, {"version": VERSION}, {"note": "x"})),
    ),
    ("POST", "/v1/adapters/{task_id:path}/alias"): (
        Row(
            "/v1/adapters/{}/alias",
            posts({"name": ALIAS}, *named(name="best")),
        ),
    ),
    ("POST", "/v1/adapters/{task_id:path}/load"): (Row("/v1/adapters/{}/load"),),
    ("POST", "/v1/adapters/{task_id:path}/pin"): (
        Row("/v1/adapters/{}/pin", posts(None, {"pinned": "unpinned"})),
    ),
    ("GET", "/v1/adapters/{task_id:path}"): (Row("/v1/adapters/{}"),),
    ("PUT", "/v1/adapters/{task_id:path}"): (
        Row("/v1/adapters/{}", (None, b"garbage", FOREIGN, FILE), changes=True),
        Row("/v1/adapters/{}?stage=0.5", (None, b"garbage", FOREIGN)),
    ),
    ("DELETE", "/v1/adapters/{task_id:path}"): (Row("/v1/adapters/{}", changes=True),),
    ("GET", "/v1/overview"): (
        Row("/v1/overview"), Row("/v1/overview?search={}"), Row("/v1/overview?sort=requests"),
        Row("/v1/overview?sort=nothing"),
    ),
    ("GET", "/"): (Row("/"),),
    ("GET", "/console/{name}"): (Row("/console/main.js"), Row("/console/{}")),
    ("GET", "/docs"): (Row("/docs"),),
    ("GET", "/docs/{name}"): (Row("/docs/swagger-ui.css"), Row("/docs/{}")),
    ("GET", "/openapi.json"): (Row("/openapi.json"),),
    ("HEAD", "/openapi.json"): (Row("/openapi.json"),),
    ("GET", "/livez"): (Row("/livez"),),
    ("GET", "/ping"): (Row("/ping"),),
    ("GET", "/health"): (Row("/health"),),
    ("GET", "/readyz"): (Row("/readyz"),),
    ("GET", "/metrics"): (Row("/metrics"),),
    ("GET", "/info"): (Row("/info"),),
}  # fmt: skip
# What has no route, or not with that method.
ODD_PATHS = (
    "/v1/adapters/", "/v1/adapters/{}/", "/v1/adapters/{}/nothing", "/v1/adapters//{}",
    "/v1/adapters/{}/load/load", "/v1/models/", "/v1/models/{}/{}", "/v2/models", "/v2/models/{}/",
    "/v2/models/{}/versions", "/v2/repository/index", "/v2/repository/models/{}/load",
    "/v1/tasks/{}", "/v1/tasks/{}/nothing", "/v1/tasks//generate", "/{}", "/metrics/{}", "/info/{}",
    "/v1/overview/{}", "/v1/adapters/%2e%2e/{}", "/v1/adapters/{}%00", "/generate/{}", "//{}",
)  # fmt: skip
EACH = tuple((method, row) for (method, _), rows in TABLE.items() for row in rows)
