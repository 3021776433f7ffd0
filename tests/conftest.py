"""What holds for every test: no deadline for hypothesis, since machines are shared and slow."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
