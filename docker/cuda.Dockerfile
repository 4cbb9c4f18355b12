# For NVIDIA GPUs, with a driver of 580 or later (TORCH_INDEX=cu126: of 525 or later). From the root of a checkout:
#
#   docker build --file docker/cuda.Dockerfile --tag minicpmv:cuda .
#   docker run --rm -it --gpus all --shm-size 8g --volume "$PWD/work:/data" minicpmv:cuda sh /opt/minicpmv/finetune_lora.sh
#
# --shm-size: data workers hand batches over through /dev/shm, of which Docker gives 64 MB.
#
# Not built by this project yet: no machine of it can run Docker.
FROM python:3.12-slim-bookworm

# g++ for Triton, --torch_compile and DeepSpeed's optimizers on the processor. torch brings CUDA's libraries itself.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes g++ libgomp1 \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=cu130
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/${TORCH_INDEX} PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
ARG EXTRAS=data,films,metrics,modelscope,qlora,serve,ui
COPY . /opt/minicpmv
RUN PYTHON=python3 sh /opt/minicpmv/scripts/install.sh "$EXTRAS"

# Weights, data and output belong outside of the container.
ENV HF_HOME=/data/.cache/huggingface MODELSCOPE_CACHE=/data/.cache/modelscope
RUN useradd --create-home --uid 1000 minicpmv && mkdir /data && chown minicpmv /data
USER 1000
WORKDIR /data
CMD ["minicpmv", "--help"]
