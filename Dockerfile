# A machine that runs the demo:   docker build -t mmdistill_dense . && docker run --rm mmdistill_dense
# The same for detection:         docker build -t mmdistill_dense --build-arg LEVEL=det . && docker run --rm mmdistill_dense make demo-det
# With a GPU (any base with a CUDA toolkit; TORCH is the name of torch's build for it):
#   docker build -t mmdistill_dense --build-arg BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04 --build-arg TORCH=cu130 --build-arg LEVEL=det \
#       --build-arg FORCE_CUDA=1 --build-arg TORCH_CUDA_ARCH_LIST='8.0;9.0' . && docker run --rm --gpus all mmdistill_dense
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        g++ git libgl1 libglib2.0-0 make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# LEVEL: demo (segmentation, nothing is compiled), det (detection as well), test (with the tests' tools).
# TORCH: cpu, or a CUDA build such as cu130. No GPU is seen while an image is built, so FORCE_CUDA=1 asks for mmcv's CUDA operations.
ARG LEVEL=demo
ARG TORCH=cpu
ARG FORCE_CUDA=0
ARG TORCH_CUDA_ARCH_LIST
ENV UV_TORCH_BACKEND=${TORCH}

WORKDIR /mmdistill_dense
COPY . .
RUN tools/setup_env.sh ${LEVEL}

# The set-up is done: this only trains.
CMD ["make", "demo"]
