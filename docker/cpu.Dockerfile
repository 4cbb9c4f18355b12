# For a machine without a GPU. From the root of a checkout:
#
#   docker build --file docker/cpu.Dockerfile --tag minicpmv:cpu .
#   docker run --rm -it --volume "$PWD/work:/data" minicpmv:cpu sh /opt/minicpmv/finetune_lora.sh
#
# Not built by this project yet: no machine of it can run Docker.
FROM python:3.12-slim-bookworm

# g++ for --torch_compile, which compiles for the processor.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes g++ libgomp1 \
    && rm -rf /var/lib/apt/lists/*

# torch for processors, and everything else in the versions and with the hashes of requirements/.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
ARG EXTRAS=data,films,metrics,modelscope,serve,ui
COPY . /opt/minicpmv
RUN PYTHON=python3 sh /opt/minicpmv/scripts/install.sh "$EXTRAS"

# Weights, data and output belong outside of the container.
ENV HF_HOME=/data/.cache/huggingface MODELSCOPE_CACHE=/data/.cache/modelscope
RUN useradd --create-home --uid 1000 minicpmv && mkdir /data && chown minicpmv /data
USER 1000
WORKDIR /data
CMD ["minicpmv", "--help"]
