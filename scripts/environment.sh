# A Python with this package in it, for the scripts in the repository root, which source this file. POSIX sh.
#
#   in   ROOT     the repository
#        EXTRAS   of pyproject.toml, with commas; may be empty
#        PYTHON   optional, from the environment: the interpreter to use
#   out  PYTHON   an interpreter that imports this checkout, and PATH with its commands first
#        MINICPMV how a user types the command afterwards: `minicpmv`, or its path when PATH will not have it then
#
# A copy that `minicpmv scripts` wrote (scripts/python.txt lies beside it) uses the package that is installed: with PYTHON,
# else with the active environment, else with the one that made the copy.
#
# In a checkout, the environment that is active is used as it is if this checkout is installed there (scripts/install.sh). Otherwise
# .venv beside this checkout is made, once: a few minutes and, with torch's CUDA libraries, a few GB. Without an NVIDIA
# GPU the much smaller CPU build of torch does as well; to have it, let pip find it before the first start, for instance
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu sh finetune_lora.sh

# Whether interpreter $1 imports this checkout and everything that EXTRAS promise.
_environment_is_ready() {
    "$1" - "$ROOT" "$EXTRAS" <<'PYTHON_CODE' 2>/dev/null
import importlib.util, os, sys

root, extras = sys.argv[1], set(sys.argv[2].split(","))
modules = ["accelerate", "gguf", "json5", "numpy", "peft", "PIL", "safetensors", "torch", "transformers", "wrapt"]
if "dev" in extras:
    modules += ["av", "codespell_lib", "gradio", "importlinter", "ipykernel", "modelscope_hub", "nbclient", "openai", "pandas", "playwright", "pyright", "pytest", "ruff", "uvicorn", "xdist"]
if "films" in extras:
    modules += ["av"]
if "qlora" in extras:
    modules += ["bitsandbytes"]
if sys.platform == "linux":
    modules += ["deepspeed"]
package = importlib.util.find_spec("minicpmv")
ours = os.path.join(os.path.realpath(root), "src", "minicpmv", "__init__.py")
if package is None or package.origin is None or os.path.realpath(package.origin) != ours:
    sys.exit(1)
sys.exit(any(importlib.util.find_spec(module) is None for module in modules))
PYTHON_CODE
}

_python_is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

# Sets PYTHON to the first interpreter of 3.10 or newer, or ends the script.
_find_python() {
    for _candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10; do
        if _python_is_new_enough "$_candidate"; then
            PYTHON=$_candidate
            return
        fi
        if [ -n "${PYTHON:-}" ]; then # the user chose this one: do not quietly take another
            break
        fi
    done
    if _found=$("${PYTHON:-python3}" --version 2>&1); then :; else _found="no ${PYTHON:-python3}"; fi
    echo "found $_found, expected Python 3.10 or newer" >&2
    echo "  fix: install one and name it, for instance: PYTHON=/usr/bin/python3.12 sh $0" >&2
    exit 2
}

_create_virtual_environment() {
    mkdir -p "$_venv"
    : >"$_installing"
    echo "Creating $_venv with $("$PYTHON" --version)"
    if "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then # Debian and Ubuntu have venv without ensurepip
        "$PYTHON" -m venv "$_venv"
    elif "$PYTHON" -m virtualenv --version >/dev/null 2>&1; then
        "$PYTHON" -m virtualenv --quiet "$_venv"
    elif command -v virtualenv >/dev/null 2>&1; then
        virtualenv --quiet --python "$PYTHON" "$_venv"
    else
        rm -rf "$_venv"
        _version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        echo "found $PYTHON without venv and no virtualenv, expected either, to make $_venv" >&2
        echo "  fix: apt-get install python$_version-venv" >&2
        exit 2
    fi
}

_install() {
    : >"$_installing"
    rm -f "$_stamp"
    echo "Installing minicpmv-finetune${EXTRAS:+ with $EXTRAS} and what it needs into $_venv (minutes, once; pip writes $_venv/install.log)"
    if ! PYTHON=$_venv/bin/python sh "$ROOT/scripts/install.sh" "$EXTRAS" >"$_venv/install.log" 2>&1; then
        grep -v '^WARNING' "$_venv/install.log" | tail -n 20 >&2
        echo "the installation failed; everything that pip said is in $_venv/install.log" >&2
        echo "  fix: mend what it names and start again; the installation is then redone from the beginning" >&2
        exit 1
    fi
    printf '%s %s\n%s\n' "$_sources" "$EXTRAS" "$ROOT" >"$_stamp.new"
    mv "$_stamp.new" "$_stamp"
    rm -f "$_installing"
    echo "Installed"
}

# Whether the stamp was written for these sources and holds every extra that is asked for now.
_stamp_is_current() {
    [ -f "$_stamp" ] || return 1
    read -r _stamped_sources _stamped_extras <"$_stamp" || return 1
    [ "$_stamped_sources" = "$_sources" ] || return 1
    for _extra in $(echo "$EXTRAS" | tr ',' ' '); do
        case ",$_stamped_extras," in
        *",$_extra,"*) ;;
        *) return 1 ;;
        esac
    done
}

# Whether .venv lies where it was made (its commands hold absolute paths) and its interpreter still starts.
_stamp_fits_this_place() {
    [ "$(sed -n 2p "$_stamp")" = "$ROOT" ] && "$_venv/bin/python" -c '' 2>/dev/null
}

# Makes .venv ready and sets PYTHON to its interpreter, or ends the script.
_use_own_environment() {
    _venv=$ROOT/.venv
    _stamp=$_venv/minicpmv-installed # what was installed; written last
    _installing=$_venv/minicpmv-installing # there while an installation runs, and after one that was interrupted
    _sources=$(cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" "$ROOT/requirements/"*.txt | cksum | tr ' ' '-')

    if command -v flock >/dev/null 2>&1; then # two scripts started at once: the second waits, then finds it done
        exec 9>"$ROOT/.venv.lock"
        if ! flock -n 9; then
            echo "Waiting for another start that is making $_venv"
            flock 9
        fi
    fi
    rmdir "$_venv" 2>/dev/null || : # an empty folder is nobody's
    if [ -f "$_installing" ]; then
        echo "Removing $_venv, whose installation was interrupted"
        rm -rf "$_venv"
    elif [ -f "$_stamp" ] && ! _stamp_fits_this_place; then
        echo "Removing $_venv, which was made for another place or another Python"
        rm -rf "$_venv"
    fi
    if _stamp_is_current && _environment_is_ready "$_venv/bin/python"; then
        :
    elif [ -d "$_venv" ] && [ ! -f "$_stamp" ]; then # somebody else's: never changed, used only if complete
        if ! _environment_is_ready "$_venv/bin/python"; then
            echo "found $_venv, which these scripts did not make, without minicpmv-finetune${EXTRAS:+[$EXTRAS]}" >&2
            echo "  fix: remove it, or: PYTHON=$_venv/bin/python sh scripts/install.sh $EXTRAS" >&2
            exit 2
        fi
    else
        if [ -f "$_stamp" ]; then # keep what earlier starts asked for
            read -r _ _stamped_extras <"$_stamp" || :
            for _extra in $(echo "${_stamped_extras:-}" | tr ',' ' '); do
                case ",$EXTRAS," in
                *",$_extra,"*) ;;
                *) EXTRAS=${EXTRAS:+$EXTRAS,}$_extra ;;
                esac
            done
        else
            _find_python
            _create_virtual_environment
        fi
        _install
    fi
    if command -v flock >/dev/null 2>&1; then
        exec 9>&- # or every process started from here would hold the lock
    fi
    PYTHON=$_venv/bin/python
    MINICPMV=$_venv/bin/minicpmv
}

# Sets PYTHON to an interpreter that imports the installed package, or ends the script. For copies of the scripts.
_use_installed_package() {
    for _candidate in "${PYTHON:-python3}" "$(cat "$ROOT/scripts/python.txt")"; do
        if "$_candidate" -c 'import minicpmv' 2>/dev/null; then
            PYTHON=$_candidate
            MINICPMV=minicpmv
            return
        fi
        if [ -n "${PYTHON:-}" ]; then # the user chose this one: do not quietly take another
            break
        fi
    done
    echo "found no minicpmv in $_candidate, expected the Python that it is installed in" >&2
    echo "  fix: activate that environment, or name its Python: PYTHON=/path/to/bin/python sh $0" >&2
    exit 2
}

EXTRAS=${EXTRAS:-}
if [ -f "$ROOT/scripts/python.txt" ]; then
    _use_installed_package
elif _environment_is_ready "${PYTHON:-python3}"; then
    PYTHON=${PYTHON:-python3}
    MINICPMV=minicpmv
else
    _use_own_environment
fi
_commands=$("$PYTHON" -c 'import os, sys; print(os.path.dirname(os.path.abspath(sys.executable)))')
if [ "$MINICPMV" = minicpmv ] && ! command -v minicpmv >/dev/null 2>&1; then
    MINICPMV=$_commands/minicpmv
fi
PATH=$_commands:$PATH
export PATH
