# Two stages: the first has compilers and pip, the second only what runs. Build and run:
#
#   docker build -t jumplora:0.1.0 .
#   docker run --rm -p 127.0.0.1:8000:8000 jumplora:0.1.0
#
# An image has kernels for all processors of the builder's kind, x86-64 here; --platform linux/arm64
# makes one for ARM (not tried).
# For a GPU, build with the index of CUDA wheels and run with JUMPLORA_DEVICE=cuda:
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 -t jumplora:0.1.0-cuda .

FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The native kernels are compiled at install; the second stage needs no compiler.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/jumplora
ENV PATH=/opt/jumplora/bin:$PATH
WORKDIR /src
# What changes seldom first: the packages we depend on are a layer of their own.
COPY pyproject.toml constraints.txt hatch_build.py ./
RUN mkdir -p server/jumplora_server adapters/jumplora_adapters \
    && touch README.md server/jumplora_server/__init__.py adapters/jumplora_adapters/__init__.py \
    && NATIVE_KERNELS=off pip install --no-cache-dir --constraint constraints.txt --extra-index-url "$TORCH_INDEX" .
COPY README.md ./
COPY server server
COPY adapters/jumplora_adapters adapters/jumplora_adapters
RUN NATIVE_KERNELS=required pip install --no-cache-dir --no-deps --force-reinstall .

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 jumplora \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin jumplora
COPY --from=build /opt/jumplora /opt/jumplora
# Both belong to the server: it publishes into the store, and safetensors writes files that only
# their owner may read.
COPY --chown=10001:10001 adapters/demo/backbone /srv/jumplora/backbone
COPY --chown=10001:10001 adapters/demo/store /srv/jumplora/store
ENV PATH=/opt/jumplora/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/tmp/huggingface \
    XDG_CACHE_HOME=/tmp/cache \
    JUMPLORA_HOST=0.0.0.0 \
    JUMPLORA_PORT=8000 \
    JUMPLORA_BACKBONE=/srv/jumplora/backbone \
    JUMPLORA_STORE=/srv/jumplora/store \
    JUMPLORA_LOG_FORMAT=json
USER 10001:10001
EXPOSE 8000
# A 503 (loading, draining) raises HTTPError, so the probe exits 1.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['JUMPLORA_PORT'] + '/readyz', timeout=2)"]
# Exec form: SIGTERM reaches the server itself, which then drains.
ENTRYPOINT ["jumplora", "serve"]
