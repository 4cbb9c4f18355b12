#!/bin/sh
# LoRA fine-tuning: adapters on the language model's attention; vision tower, resampler and token embeddings in full.
#
#   sh finetune_lora.sh                              the demo inside the package: nothing to download, minutes on a CPU
#   MODEL=... DATA=... sh finetune_lora.sh           your own; the values below can be edited here or set from outside
#   sh finetune_lora.sh --max_steps 20 --lora_r 16   extra flags are passed to training and override these
#   sh finetune_lora.sh run.yaml                     a file of settings in place of all below (docs/training.md)
#
# Flags that transformers has renamed since the official scripts carry today's name; the old ones are accepted, too.
# Every flag: python -m minicpmv.training --help
set -eu
ROOT=$(cd "$(dirname "$0")" && pwd)

GPUS_PER_NODE=${GPUS_PER_NODE:-} # processes on this machine; empty: one for each GPU, or one on the CPU
NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-localhost}
MASTER_PORT=${MASTER_PORT:-} # empty: a free port; 6001 with several nodes

MODEL=${MODEL:-}         # directory or hub name: openbmb/MiniCPM-V-4.7-1B, -V-4.6, -V-4_5, -V-4, -V-2_6, ...
DATA=${DATA:-}           # JSON file of conversations, see README.md; MODEL and DATA both empty: the demo
EVAL_DATA=${EVAL_DATA:-} # JSON file; empty: VALIDATION_SPLIT decides
VALIDATION_SPLIT=${VALIDATION_SPLIT:-} # records of DATA to measure instead: 0.1, 200, 0; empty: 5 % of 100 records or more
LLM_TYPE=${LLM_TYPE:-}   # qwen3_5, qwen3, qwen2, llama3 or minicpm, checked against the model; empty: read from it
MODEL_MAX_LENGTH=${MODEL_MAX_LENGTH:-2048} # tokens; with several images in a record 4096 or more

# official: vision tower, resampler and embeddings are trained in full, next to LoRA; adapters_only: LoRA alone
LORA_PRESET=${LORA_PRESET:-official}
EVAL_STEPS=${EVAL_STEPS:-}     # steps between evaluations; empty: an epoch, at most 1000
SAVE_STEPS=${SAVE_STEPS:-1000} # steps between checkpoints
MEASURE=${MEASURE:-32}         # validation records that are answered before and after training; 0: none
OUTPUT_DIR=${OUTPUT_DIR:-output/lora}

. "$ROOT/scripts/finetune.sh"
train_by_file "$@" # if the first argument is one

if [ -n "$MODEL$DATA" ]; then
    LEARNING_RATE=${LEARNING_RATE:-1e-4}
    EPOCHS=${EPOCHS:-3}
    # Records are packed into rows of MODEL_MAX_LENGTH tokens. One row holds several, so that two make an update of some
    # 8 records in each process; the run says how many. With --packing false both numbers count records.
    BATCH_SIZE=${BATCH_SIZE:-1}     # rows in one process and step
    ACCUMULATION=${ACCUMULATION:-2} # steps added up to one update
    PRECISION=${PRECISION:-}        # bf16, fp16 or fp32; empty: the best that the hardware does
else # the demo, tuned on its validation split: a model of this size takes larger steps
    LEARNING_RATE=${LEARNING_RATE:-1e-3}
    EPOCHS=${EPOCHS:-5}
    BATCH_SIZE=${BATCH_SIZE:-16} # records, padded: all are 41 tokens long, so that packing would save nothing
    ACCUMULATION=${ACCUMULATION:-1}
    PRECISION=${PRECISION:-fp32}
    MEASURE=0 # the script itself measures all held-out records, which the training never sees
    # Each epoch, which has 225 steps, ends with the share of right answers to other pictures.
    set -- --eval_steps 225 --eval_metrics exact_match --per_device_eval_batch_size 16 "$@"
    # Running the demo again starts it anew, unless --resume_from_checkpoint true is given.
    set -- --packing false --activation_checkpointing false --logging_steps 50 --overwrite_output_dir true "$@"
fi

case $LORA_PRESET in
official) TUNE_VISION=true ;;
*) TUNE_VISION=false ;;
esac

prepare "$@"

torchrun --nproc_per_node "$GPUS_PER_NODE" --nnodes "$NNODES" --node_rank "$NODE_RANK" \
    --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" -m -- minicpmv.training \
    --model_name_or_path "$MODEL" \
    ${LLM_TYPE:+--llm_type "$LLM_TYPE"} \
    --data_path "$DATA" \
    ${EVAL_DATA:+--eval_data_path "$EVAL_DATA"} \
    ${VALIDATION_SPLIT:+--validation_split "$VALIDATION_SPLIT"} \
    --measure "$MEASURE" \
    --remove_unused_columns false \
    --label_names "labels" \
    --prediction_loss_only true \
    --bf16 "$BF16" \
    --bf16_full_eval false \
    --fp16 "$FP16" \
    --fp16_full_eval false \
    --do_train \
    ${EVAL_DATA:+--do_eval} \
    --tune_vision "$TUNE_VISION" \
    --tune_llm false \
    --use_lora true \
    --lora_preset "$LORA_PRESET" \
    --lora_target_modules 'llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)' \
    --model_max_length "$MODEL_MAX_LENGTH" \
    --max_slice_nums 9 \
    --num_train_epochs "$EPOCHS" \
    ${EVAL_STEPS:+--eval_steps "$EVAL_STEPS"} \
    --output_dir "$OUTPUT_DIR" \
    --logging_strategy "steps" \
    --per_device_train_batch_size "$BATCH_SIZE" \
    --per_device_eval_batch_size 1 \
    --gradient_accumulation_steps "$ACCUMULATION" \
    --save_strategy "steps" \
    --save_steps "$SAVE_STEPS" \
    --save_total_limit 10 \
    --learning_rate "$LEARNING_RATE" \
    --weight_decay 0.1 \
    --adam_beta2 0.95 \
    --warmup_steps 0.01 \
    --lr_scheduler_type "cosine" \
    --logging_steps 1 \
    --activation_checkpointing true \
    --deepspeed zero2 \
    --report_to "tensorboard" \
    "$@"

finish
