"""A server of lists without a model: what a client's batches are tried against."""

from __future__ import annotations

import threading
from collections.abc import Callable

from small_http import Asked, Said

SIZE = 4  # of a list
INFO = {
    "version": "1", "model_id": "toy", "model_dtype": "float32", "model_device_type": "cpu",
    "backbone_fingerprint": "ab", "backbone_fingerprints": ["ab"], "max_input_tokens": 9,
    "max_new_tokens": 9, "max_concurrent_requests": 9,
    "max_batch_size": 9, "base": None, "adapters": 1,
}  # fmt: skip


def refused(status: int, code: str, **headers: str) -> Said:
    return Said.of({"error": f"it says {code}", "error_type": code}, status, **headers)


class Server:
    """Answers lists in capitals, unless `before` has something else to say of the texts."""

    def __init__(
        self,
        before: Callable[[list[str]], Said | None] = lambda texts: None,
        *,
        concurrency: int = 1,
    ) -> None:
        self._before = before
        self._info = {**INFO, "max_client_batch_size": SIZE * concurrency}
        self._lock = threading.Lock()
        self.lists: list[list[str]] = []

    def __call__(self, asked: Asked) -> Said:
        if asked.path == "/info":
            return Said.of(self._info)
        texts = asked.json["text"]
        with self._lock:
            self.lists.append(texts)
        details = {
            "finish_reason": "eos_token", "prompt_tokens": 1, "generated_tokens": 1, "seed": None,
            "task_id": asked.json["task_id"], "adapter_version": None,
        }  # fmt: skip
        answers = [{"generated_text": text.upper(), "details": details} for text in texts]
        return self._before(texts) or Said.of(answers)
