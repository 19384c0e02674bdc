# The dashboard, the command line and the trainer in one image; docs/container.md says how to build and run it.
#
# torch 2.13.0 from PyPI is built for CUDA 13.0 (it requires cuda-toolkit 13.0.3), so the base is that runtime.
# BASE can be any Debian or Ubuntu whose python3 is 3.11 to 3.13.
ARG BASE=nvidia/cuda:13.0.3-runtime-ubuntu24.04
# hadolint ignore=DL3006
FROM ${BASE}

LABEL org.opencontainers.image.title="Relight" \
      org.opencontainers.image.description="Training runs that cannot be lost: launch, watch, kill, resume and export PyTorch trainings." \
      org.opencontainers.image.licenses="Apache-2.0"

# BASE pins the release, and with it the versions of system packages.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates python3 python3-venv tini \
    && rm -rf /var/lib/apt/lists/*

# The package index: PyPI or a mirror of it, and a second index if you need one.
ARG PIP_INDEX_URL=https://pypi.org/simple
ARG PIP_EXTRA_INDEX_URL=
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# A layer of its own for the slow step: it is rebuilt only when requirements.txt changes.
WORKDIR /app
COPY requirements.txt ./
RUN python3 -m venv /opt/venv \
    && pip install --requirement requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY core ./core
COPY app ./app
RUN pip install --no-deps --editable . \
    && python3 -m compileall -q core app \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /home/relight --shell /usr/sbin/nologin relight \
    && install -d -m 1777 /home/relight /runs /data

# Any uid can write to HOME, so `docker run --user` works. Libraries that ask for the user's name read USER.
ENV HOME=/home/relight \
    USER=relight \
    RELIGHT_RUNS=/runs \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

USER 10001:10001
WORKDIR /data
VOLUME ["/runs", "/data"]
EXPOSE 8501

HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4)"]

# -s: reap orphans even if another init (docker run --init) is already process 1.
ENTRYPOINT ["tini", "-s", "--"]
CMD ["relight", "up", "--host", "0.0.0.0", "--port", "8501", "--no-browser", "--runs", "/runs"]
