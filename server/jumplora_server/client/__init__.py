"""Program with a server: `from jumplora_server.client import Client`, or AsyncClient.

The names below are the ones to rely on. CLIENT.md shows them at work.
"""

from jumplora_server.api.adapter_schemas import AdapterDetail, AdapterSummary, PutResult
from jumplora_server.api.overview_schemas import Overview
from jumplora_server.api.schemas import Details, GenerateResponse, Info, StreamEvent
from jumplora_server.client.answers import Answered, Choice, Row
from jumplora_server.client.async_client import AsyncClient
from jumplora_server.client.client import Client
from jumplora_server.client.errors import (
    InputRefused,
    KeyRefused,
    Overloaded,
    RequestFailed,
    ServerFailed,
    TaskUnknown,
    Unreachable,
)

__all__ = [
    "AdapterDetail",
    "AdapterSummary",
    "Answered",
    "AsyncClient",
    "Choice",
    "Client",
    "Details",
    "GenerateResponse",
    "Info",
    "InputRefused",
    "KeyRefused",
    "Overloaded",
    "Overview",
    "PutResult",
    "RequestFailed",
    "Row",
    "ServerFailed",
    "StreamEvent",
    "TaskUnknown",
    "Unreachable",
]
