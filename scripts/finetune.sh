# What the scripts finetune_*.sh have in common; they source this file. POSIX sh.
# In: the variables at their top, and ROOT; HAS_DEMO=no where nothing can be trained without data. Training itself is in the
# scripts, flag by flag.

# Ends the script with the wrong use that "$1" says, mended by "$2".
_wrong_use() {
    printf '%s\n  fix: %s\n' "$1" "$2" >&2
    exit 2
}

# The comment at the head of the script, for --help.
print_usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

# Sets DRY_RUN from the arguments of the script: nothing is measured where nothing is trained.
find_dry_run() {
    case " $* " in
    *" --dry"[_-]"run"[\ =][FfNn0]*) DRY_RUN=no ;;
    *" --dry"[_-]"run"[\ =]*) DRY_RUN=yes ;;
    *) DRY_RUN=no ;;
    esac
}

# Checks what can be checked before anything is installed, and sets DEMO.
check_variables() {
    DEMO=no
    if [ -z "$MODEL" ] && [ -z "$DATA" ]; then
        if [ "${HAS_DEMO:-yes}" = no ]; then
            _wrong_use "found neither MODEL nor DATA, expected both: this script has no demo" \
                "set MODEL to a model directory or hub name, and DATA to a JSON file; docs/preference.md shows one"
        fi
        DEMO=yes
        if [ "$NNODES" != 1 ]; then
            _wrong_use "found NNODES=$NNODES without MODEL and DATA, expected 1: the demo runs on one machine" \
                "set MODEL and DATA"
        fi
    elif [ -z "$MODEL" ]; then
        _wrong_use "found DATA=$DATA without MODEL, expected both (or neither, for the demo)" \
            "set MODEL to a model directory or hub name, such as openbmb/MiniCPM-V-2_6"
    elif [ -z "$DATA" ]; then
        _wrong_use "found MODEL=$MODEL without DATA, expected both (or neither, for the demo)" \
            "set DATA to a JSON file of conversations; README.md shows one"
    fi
    # An adapter remembers its base model by path: an absolute one is found from every directory.
    if [ -d "$MODEL" ]; then
        MODEL=$(cd "$MODEL" && pwd)
    fi
}

# Sets PRECISION where a flag among the arguments of the script says bf16 or fp16: flags win, and both at once are refused.
prefer_precision_of_flags() {
    for _kind in bf16 fp16; do
        case " $* " in
        *" --$_kind"[\ =][FfNn0]*) ;;
        *" --$_kind"[\ =]*) PRECISION=$_kind ;;
        esac
    done
}

# Fills in what was left empty: processes, port, precision. Arguments: those of the script.
choose_hardware() {
    _hardware=$("$PYTHON" -m minicpmv.training.launching.hardware "$@") || exit $?
    read -r _gpus _precision _port <<HARDWARE
$_hardware
HARDWARE
    if [ -z "$GPUS_PER_NODE" ]; then
        GPUS_PER_NODE=1
        if [ "$_gpus" -gt 1 ] && [ "$DEMO" = no ]; then
            GPUS_PER_NODE=$_gpus
        fi
    fi
    if [ -z "$MASTER_PORT" ]; then # all nodes must name the same one; a single node can take any
        if [ "$NNODES" = 1 ]; then MASTER_PORT=$_port; else MASTER_PORT=6001; fi
    fi
    prefer_precision_of_flags "$@"
    case ${PRECISION:=$_precision} in
    bf16) BF16=true FP16=false ;;
    fp16)
        if [ "$_gpus" -eq 0 ]; then
            _wrong_use "found PRECISION=fp16 or --fp16 true without a GPU, expected bf16 or fp32: float16 does not train on a CPU" \
                "PRECISION=bf16, or neither of the two"
        fi
        BF16=false FP16=true
        ;;
    fp32) BF16=false FP16=false ;;
    *) _wrong_use "found PRECISION=$PRECISION, expected bf16, fp16 or fp32" "choose one, or leave it empty" ;;
    esac
    if [ "$_gpus" -eq 0 ]; then
        # Threads that wait by spinning make steps 9 to 90 times slower as soon as they have to share a core.
        export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
        if [ "$DEMO" = yes ]; then # so small that a second thread costs more than it brings
            export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
        fi # otherwise the launcher divides the cores
    fi
}

# Prints the held-out accuracy of model or adapter $1 with its interval, from the last row of the evaluation's table, and
# writes its answers into $2.
_measure() {
    minicpmv eval "$1" "$HELD_OUT" --output "$2" >"$DEMO_DIR/accuracy.txt"
    tail -n 1 "$DEMO_DIR/accuracy.txt" |
        awk '{ printf "exact match %s of %s answers (95 %% interval %s to %s)\n", $2, $6, $3, $5 }'
}

# Builds the demo in output/demo, points the script at it and measures the model as it is.
prepare_demo() {
    DEMO_DIR=${DEMO_DIR:-output/demo}
    echo "MODEL and DATA are not set: the demo inside the package is used, in $DEMO_DIR"
    minicpmv demo --output "$DEMO_DIR"
    MODEL=$(cd "$DEMO_DIR/model" && pwd)
    DATA=$DEMO_DIR/train.json
    EVAL_DATA=$DEMO_DIR/validation.json # measured in every epoch; held-out records are touched before and after only
    HELD_OUT=$DEMO_DIR/heldout.json
    if [ "$DRY_RUN" = yes ]; then
        return 0
    fi
    echo "Held-out accuracy before training"
    ACCURACY_BEFORE=$(_measure "$MODEL" "$DEMO_DIR/before.jsonl")
    echo "$ACCURACY_BEFORE"
}

# Trains by a file of settings in place of the flags of the script and ends the script, if the first argument is such a file.
# Arguments: those of the script; flags behind the file win over it.
train_by_file() {
    case ${1:-} in
    *.yaml | *.yml) ;;
    *) return 0 ;;
    esac
    if [ -n "$MODEL$DATA" ] || [ "$NNODES" != 1 ]; then
        _wrong_use "found MODEL, DATA or NNODES with $1, expected the file alone: it names model and data, for one machine" \
            "unset them, or leave the file out"
    fi
    . "$ROOT/scripts/environment.sh"
    _file=$1
    shift
    MINICPMV=$MINICPMV exec "$PYTHON" -m minicpmv.training "$_file" ${GPUS_PER_NODE:+--num_processes "$GPUS_PER_NODE"} "$@"
}

# Everything between the variables at the top of a script and its training. Arguments: those of the script.
prepare() {
    case " $* " in
    *" --help "* | *" -h "*)
        print_usage
        exit 0
        ;;
    esac
    find_dry_run "$@"
    check_variables
    . "$ROOT/scripts/environment.sh"
    choose_hardware "$@"
    if [ "$DEMO" = yes ]; then
        prepare_demo
    fi
}

# torch's launcher, made to end with the training's own exit code. MINICPMV is for the chat command that it prints.
# It runs beside the shell, which would otherwise not hand on a signal: the training stops at the end of a step, saved.
torchrun() {
    MINICPMV=$MINICPMV "$PYTHON" -m minicpmv.training.launching.launcher "$@" &
    _training=$!
    for _name in TERM INT USR1 HUP; do
        trap "_signalled=yes; kill -s $_name $_training 2>/dev/null || :" "$_name"
    done
    _signalled=yes
    while [ "$_signalled" = yes ]; do # a signal ends the waiting, not the training
        _signalled=no
        _ended=0
        wait "$_training" || _ended=$?
    done
    trap - TERM INT USR1 HUP
    return "$_ended"
}

# The last lines of the demo. For a run on your own data the training has printed its own, and so has a dry run.
finish() {
    if [ "$DEMO" = no ] || [ "$DRY_RUN" = yes ]; then
        return 0
    fi
    echo "Held-out accuracy after training"
    ACCURACY_AFTER=$(_measure "$OUTPUT_DIR" "$OUTPUT_DIR/after.jsonl")
    cp "$DEMO_DIR/before.jsonl" "$OUTPUT_DIR/before.jsonl"
    _report=$(minicpmv report "$OUTPUT_DIR" | head -n 1) # once more: the training could not know these answers
    _question=$("$PYTHON" -c '
import json, os, shlex, sys
file, folder = sys.argv[1], os.path.dirname(sys.argv[1])
with open(file, encoding="utf-8") as text:
    record = json.load(text)[0]
question = record["conversations"][0]["content"].replace("<image>", "").strip()
print("--image", shlex.quote(os.path.join(folder, record["image"])), shlex.quote(question))
' "$HELD_OUT")
    echo
    echo "Before: $ACCURACY_BEFORE"
    echo "After:  $ACCURACY_AFTER"
    echo "Saved:  $OUTPUT_DIR"
    echo "Report: $_report"
    echo "Chat:   $MINICPMV chat $OUTPUT_DIR $_question"
}
