"""What holds for every test: no deadline for hypothesis, since machines are shared and slow, and
Triton's kernels are interpreted where there is no GPU.
"""

from __future__ import annotations

import os

import torch
from hypothesis import settings

# Triton decides as it is imported, and transformers imports it: so here, before any test module.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
