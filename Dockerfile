# kmlite in a container. For a CUDA card (with the NVIDIA Container Toolkit on the host):
#   docker build -t kmlite .
#   docker run --gpus all -v "$PWD/data:/kmlite/data" -v "$PWD/model:/kmlite/model" -e HF_TOKEN kmlite make pipeline
# Without a card:
#   docker build -t kmlite --build-arg LOCK=requirements/cpu.txt .
#   docker run kmlite make demo
FROM python:3.12-slim
# Debian keeps one version of each package at a time
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends build-essential git && rm -rf /var/lib/apt/lists/*
WORKDIR /kmlite
ARG LOCK=requirements/gpu.txt
ENV PIP_NO_CACHE_DIR=1 LOCK=${LOCK}
COPY . .
RUN make setup extras
CMD ["make", "help"]
