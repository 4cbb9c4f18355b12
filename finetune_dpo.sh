#!/bin/sh
# DPO with LoRA: learn which of two answers is better. Each record has a `rejected` answer, see docs/preference.md.
#
#   MODEL=... DATA=... sh finetune_dpo.sh            your own; the values below can be edited here or set from outside
#   MODEL=... DATA=... sh finetune_dpo.sh --beta 0.2 extra flags are passed to training and override these
#   sh finetune_dpo.sh run.yaml                      a file of settings in place of all below (docs/training.md)
#
# Every flag: python -m minicpmv.training --help
set -eu
ROOT=$(cd "$(dirname "$0")" && pwd)
HAS_DEMO=no

GPUS_PER_NODE=${GPUS_PER_NODE:-} # processes on this machine; empty: one for each GPU, or one on the CPU
NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-localhost}
MASTER_PORT=${MASTER_PORT:-} # empty: a free port; 6001 with several nodes

MODEL=${MODEL:-}         # directory or hub name; best one that was trained on such answers before (finetune_lora.sh)
DATA=${DATA:-}           # JSON file of conversations with a `rejected` answer each
EVAL_DATA=${EVAL_DATA:-} # JSON file; empty: VALIDATION_SPLIT decides
VALIDATION_SPLIT=${VALIDATION_SPLIT:-} # records of DATA to measure instead: 0.1, 200, 0; empty: 5 % of 100 records or more
LLM_TYPE=${LLM_TYPE:-}   # qwen3_5, qwen3, qwen2, llama3 or minicpm, checked against the model; empty: read from it
MODEL_MAX_LENGTH=${MODEL_MAX_LENGTH:-2048} # tokens of question and both answers

PREFERENCE_LOSS=${PREFERENCE_LOSS:-sigmoid} # sigmoid is DPO; mpo, simpo, orpo, ..., or a mixture: sigmoid=1,nll=0.1
BETA=${BETA:-}                 # strength of the reference; empty: 0.1, with simpo 2
LORA_PRESET=${LORA_PRESET:-adapters_only} # official: vision tower, resampler and embeddings in full, next to LoRA
EVAL_STEPS=${EVAL_STEPS:-}     # steps between evaluations; empty: an epoch, at most 1000
SAVE_STEPS=${SAVE_STEPS:-1000} # steps between checkpoints
MEASURE=${MEASURE:-32}         # validation records that are answered before and after training; 0: none
OUTPUT_DIR=${OUTPUT_DIR:-output/dpo}

. "$ROOT/scripts/finetune.sh"
train_by_file "$@" # if the first argument is one

LEARNING_RATE=${LEARNING_RATE:-1e-5} # that of RLAIF-V with LoRA; from 5e-5 on answers fall apart
EPOCHS=${EPOCHS:-1}
# Pairs are packed into rows of MODEL_MAX_LENGTH tokens, a question and its picture once for both answers.
BATCH_SIZE=${BATCH_SIZE:-1}     # rows in one process and step
ACCUMULATION=${ACCUMULATION:-4} # steps added up to one update
PRECISION=${PRECISION:-}        # bf16, fp16 or fp32; empty: the best that the hardware does

case $LORA_PRESET in
official) TUNE_VISION=true ;;
*) TUNE_VISION=false ;;
esac

prepare "$@"

torchrun --nproc_per_node "$GPUS_PER_NODE" --nnodes "$NNODES" --node_rank "$NODE_RANK" \
    --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" -m -- minicpmv.training \
    --objective dpo \
    --preference_loss "$PREFERENCE_LOSS" \
    ${BETA:+--beta "$BETA"} \
    --model_name_or_path "$MODEL" \
    ${LLM_TYPE:+--llm_type "$LLM_TYPE"} \
    --data_path "$DATA" \
    ${EVAL_DATA:+--eval_data_path "$EVAL_DATA"} \
    ${VALIDATION_SPLIT:+--validation_split "$VALIDATION_SPLIT"} \
    --measure "$MEASURE" \
    --bf16 "$BF16" \
    --fp16 "$FP16" \
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
    --weight_decay 0.01 \
    --adam_beta2 0.95 \
    --warmup_steps 0.05 \
    --lr_scheduler_type "cosine" \
    --logging_steps 1 \
    --activation_checkpointing true \
    --deepspeed zero2 \
    --report_to "tensorboard" \
    "$@"

finish
