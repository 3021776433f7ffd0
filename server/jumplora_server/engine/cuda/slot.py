"""A slot: one version's own deltas in one buffer of device memory, which begins with its table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from jumplora_adapters.density import pooled_density
from jumplora_adapters.format import Adapter
from jumplora_server.engine.bank import PackedAdapter, Resident
from jumplora_server.engine.cuda.factored import GatedFactors
from jumplora_server.engine.cuda.forms import DeviceForm, place
from jumplora_server.engine.cuda.pool import Pool
from jumplora_server.engine.cuda.upload import Uploader


@dataclass(frozen=True, slots=True)
class DeviceAdapter(PackedAdapter[DeviceForm]):
    """A resident version, whose arrays and records are all in one pool."""

    pool: Tensor  # uint8 [nbytes]
    address: int  # where the slot's table lies, as batches name it
    targeted: int  # a bit for each module that it has, by the module's number


def load(
    adapter: Adapter,
    modules: Mapping[str, int],
    factors: Mapping[str, GatedFactors],
    uploader: Uploader,
) -> DeviceAdapter:
    """Lay out an adapter and copy it to the device.

    Args:
        modules: the number of every module in the table.
        factors: the modules that are to be factored.
    """
    pool = Pool(len(modules))
    records, sizes = {}, {}
    for module, delta in adapter.deltas.items():
        before = pool.nbytes
        records[module] = place(pool, delta, factors.get(module))
        sizes[module] = pool.nbytes - before
        pool.describe(modules[module], records[module])
    buffer = uploader.upload(pool.nbytes, pool.write)
    return DeviceAdapter(
        version=adapter.digest,
        nbytes=pool.nbytes,
        nnz=sum(delta.nnz for delta in adapter.deltas.values()),
        density=pooled_density(adapter.deltas),
        forms={
            module: DeviceForm(record, adapter.deltas[module].shape, sizes[module], buffer)
            for module, record in records.items()
        },
        pool=buffer,
        address=buffer.data_ptr(),
        targeted=sum(1 << modules[module] for module in records),
    )


def on_device(lineage: tuple[PackedAdapter[Resident], ...]) -> tuple[DeviceAdapter, ...]:
    """A lineage of slots that this runner packed."""
    slots = tuple(adapter for adapter in lineage if isinstance(adapter, DeviceAdapter))
    assert len(slots) == len(lineage), "a slot of another runner"
    return slots
