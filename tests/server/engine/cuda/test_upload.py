"""Uploads: the bytes arrive, at the address that was announced, from any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from device_slots import DEVICE
from jumplora_server.engine.cuda.upload import Uploader


def load(uploader: Uploader, seed: int) -> tuple[Tensor, Tensor, int]:
    content = torch.randint(0, 256, (1000 + seed,), dtype=torch.uint8)
    announced = []

    def fill(host: Tensor, address: int) -> None:
        announced.append(address)
        host.copy_(content)

    return uploader.upload(content.numel(), fill), content, announced[0]


def test_loads_of_several_threads_arrive_whole() -> None:
    uploader = Uploader(DEVICE)
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(lambda seed: load(uploader, seed), range(12)))
    for buffer, content, address in loaded:
        assert buffer.device.type == DEVICE.type
        assert buffer.data_ptr() == address
        assert torch.equal(buffer.cpu(), content)
        uploader.keep_for(buffer)


def test_what_goes_wrong_beside_is_not_swallowed() -> None:
    uploader = Uploader(DEVICE)
    with pytest.raises(ValueError, match="broken"), uploader.beside():
        raise ValueError("broken")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_load_does_not_wait_for_the_compute_stream() -> None:
    uploader = Uploader(DEVICE)
    load(uploader, 0)
    # Cycles: about a second on the compute stream.
    torch.cuda._sleep(2_000_000_000)  # type: ignore[no-untyped-call]
    busy = torch.cuda.Event()  # type: ignore[no-untyped-call]
    busy.record()
    buffer, content, _ = load(uploader, 1)
    idle = busy.query()  # type: ignore[no-untyped-call]
    assert not idle, "the load returned after the compute stream was idle"
    torch.cuda.synchronize()
    assert torch.equal(buffer.cpu(), content)
