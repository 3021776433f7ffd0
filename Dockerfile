# Two stages: the first has a compiler and pip, the second only what runs. Build and run:
#
#   docker build -t jumplora:0.1.0 .
#   docker run --rm -p 127.0.0.1:8000:8000 --read-only --tmpfs /tmp --cap-drop ALL \
#     --security-opt no-new-privileges jumplora:0.1.0
#
# Every Python package is pinned by version and hash (deploy/image/requirements.lock), the base image
# by digest. /opt/jumplora/sbom.cdx.json lists all Python packages of the image (CycloneDX).
#
# An image has kernels for all processors of the builder's kind, x86-64 here; --platform linux/arm64
# makes one for ARM (not tried). For a GPU make a lock of CUDA's torch first (not tried either):
#   make lock LOCK=deploy/image/cuda.lock TORCH=https://download.pytorch.org/whl/cu126
#   docker build --build-arg LOCK=deploy/image/cuda.lock \
#     --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 -t jumplora:0.1.0-cuda .
# and run with JUMPLORA_DEVICE=cuda.

FROM python:3.11-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84 AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG LOCK=deploy/image/requirements.lock
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The native kernels are compiled here; the second stage needs no compiler. Debian's compiler is not
# pinned: a version that was pinned is gone from its servers after the next update.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# What changes seldom first: the packages we depend on are a layer of their own.
COPY deploy/image deploy/image
RUN python -m venv /opt/tools \
    && /opt/tools/bin/python -m pip install --no-cache-dir --require-hashes --no-deps --requirement deploy/image/tools.lock
# Without pip: nothing is installed into the image that runs.
RUN python -m venv --without-pip /opt/jumplora \
    && /opt/tools/bin/pip --python /opt/jumplora/bin/python install --no-cache-dir --require-hashes --no-deps \
    --extra-index-url "$TORCH_INDEX" --requirement "$LOCK"
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY server server
COPY adapters/jumplora_adapters adapters/jumplora_adapters
RUN NATIVE_KERNELS=required /opt/tools/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /dist . \
    && /opt/tools/bin/pip --python /opt/jumplora/bin/python install --no-index --no-deps /dist/*.whl \
    && /opt/tools/bin/pip --python /opt/jumplora/bin/python check
RUN /opt/tools/bin/cyclonedx-py environment /opt/jumplora --pyproject pyproject.toml \
    --output-reproducible --output-format JSON --output-file /opt/jumplora/sbom.cdx.json

FROM python:3.11-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84
LABEL org.opencontainers.image.title="JumpLoRA server" \
    org.opencontainers.image.description="Many sparse task adapters on one T5 backbone, mixed in one batch" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 jumplora \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin jumplora
COPY --from=build /opt/jumplora /opt/jumplora
COPY LICENSE /usr/share/licenses/jumplora/LICENSE
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
