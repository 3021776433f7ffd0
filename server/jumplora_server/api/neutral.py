"""Fields that ask for what is not built here: taken at the values that ask for nothing, and refused
by name at all others.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from jumplora_adapters.printable import shown_value


class Neutral:
    """Marks a field that may be null or one of `values`, all of which ask for nothing: it is None.

    `why` says what there is instead of what another value would ask for.
    """

    def __init__(self, *values: object, why: str = "that is not built here") -> None:
        self.values = (None, *values)
        self._why = why

    def _check(self, value: object) -> None:
        for allowed in self.values:
            # False is 0 in Python, and is another value in JSON.
            if value == allowed and isinstance(value, bool) == isinstance(allowed, bool):
                return
        give = " or ".join(json.dumps(allowed) for allowed in self.values[1:] or (None,))
        raise ValueError(
            f"{shown_value(value)} was given, but {self._why}; leave it out, or give {give}"
        )

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Pydantic asks how to validate."""
        del source, handler
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Pydantic asks what to document."""
        del schema, handler
        return {"enum": [*self.values]}


NoPenalty = Annotated[None, Neutral(0, why="only repetition_penalty is built here")]
