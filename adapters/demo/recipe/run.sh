#!/usr/bin/env bash
# Makes the demo again: vocabulary, tasks, backbone, adapters, baselines, model card.
#
#   BENCHMARK_DATA  folder of the continual-learning benchmark (dbpedia, agnews, tasks.json)
#   DEMO_TEXT       folder of the pre-training text
#   DEMO_TOKENIZER  T5's tokenizer.json (32,000 pieces and 100 sentinels)
#   WORK            where everything is made (default: runs/demo); finished parts are kept
#   PYTHON          an interpreter with the project and its extras (default: .venv/bin/python)
#
# The pre-training's schedule runs on seconds, so another machine gets another backbone of the same
# kind; the adapters that follow are seeded and repeat exactly on the same hardware and threads.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
: "${BENCHMARK_DATA:?set BENCHMARK_DATA}" "${DEMO_TEXT:?set DEMO_TEXT}"
: "${DEMO_TOKENIZER:?set DEMO_TOKENIZER}"
work=${WORK:-runs/demo}
python=${PYTHON:-.venv/bin/python}
seconds=${PRETRAIN_SECONDS:-3600}
export PYTHONPATH=$PWD/server:$PWD/adapters BENCHMARK_DATA DEMO_TEXT DEMO_TOKENIZER
demo=adapters/demo
mkdir -p "$work"

[ -f "$work/backbone/tokenizer.json" ] || "$python" -m demo.recipe.vocabulary "$work/backbone"
[ -d "$work/tasks/years" ] || "$python" -m demo.recipe.tasks "$work/tasks"
if [ ! -f "$work/pretrained" ]; then
    "$python" -m demo.recipe.pretrain "$work" --seconds "$seconds"
    rm -rf "$demo/backbone" "$demo/store" "$work"/*.safetensors*
    mkdir -p "$demo/backbone"
    cp "$work"/backbone/* "$demo/backbone/"
    touch "$work/pretrained"
fi

# task, rank, learning rate, epochs, limits of prompt and answer in tokens
while read -r task rank rate epochs source target; do
    # The same command continues a run that was cut off, and refuses one of other settings.
    [ -f "$work/$task.safetensors" ] || "$python" -m jumplora_server train \
        --backbone "$demo/backbone" --task "$task" --task-file "$work/tasks/$task/task.json" \
        --train "$work/tasks/$task/train.jsonl" --dev "$work/tasks/$task/dev.jsonl" \
        --test "$work/tasks/$task/test.jsonl" --dev-rows 500 \
        --rank "$rank" --alpha "$((4 * rank))" --lr "$rate" --decay linear --warm-up 50 \
        --batch-size 16 --epochs "$epochs" \
        --source-length "$source" --target-length "$target" --precision bfloat16 \
        --threads "${THREADS:-1}" --out "$work/$task.safetensors"
done <"$demo/recipe/adapters.txt"

"$python" -m demo.recipe.baselines "$work/tasks" "$demo/backbone" --output "$work/baselines.json"
# Publish what reaches its floor; the card is written from the store and fails on what does not.
# Each calibration is another version, and the demo's store has one a task.
rm -rf "$work/store"
for task in ${PUBLISH:-agnews dbpedia register subject}; do
    "$python" -m jumplora_server publish "$work/$task.safetensors" \
        --store "$work/store" --backbone "$demo/backbone"
done
WORK=$work "$demo/recipe/calibrate.sh"
# Its canaries are sentences written for the demo, so the store holds no row of a data set.
for folder in "$work"/store/*/; do
    task=$(basename "$folder")
    "$python" -m jumplora_server canary "$folder/$(cat "$folder/current").safetensors" \
        --backbone "$demo/backbone" --rows "$demo/recipe/canaries/$task.jsonl" \
        --out "$work/$task.canaries.safetensors"
    "$python" -m jumplora_server publish "$work/$task.canaries.safetensors" \
        --store "$demo/store" --backbone "$demo/backbone"
done
"$python" -m demo.recipe.card "$work/baselines.json" "$work/choices"
