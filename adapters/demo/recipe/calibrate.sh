#!/usr/bin/env bash
# Calibrates the tasks of the store WORK/store for float32 and int8, on at most 500 dev rows each,
# and measures that on at most 1,600 test rows (WORK/choices/TASK-DTYPE.json): as a server answers
# them, so one is started for each dtype.
#
#   WORK      has store, and tasks as demo.recipe.tasks writes them
#   PYTHON    an interpreter with the project (default: .venv/bin/python)
#   PORT      the server listens on (default: 8017)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
: "${WORK:?set WORK}"
python=${PYTHON:-.venv/bin/python}
port=${PORT:-8017}
export PYTHONPATH=$PWD/server:$PWD/adapters
export JUMPLORA_BACKBONE=$PWD/adapters/demo/backbone JUMPLORA_STORE=$WORK/store
mkdir -p "$WORK/choices"
server=
trap '[ -z "$server" ] || kill "$server"' EXIT

for dtype in float32 int8; do
    JUMPLORA_PORT=$port "$python" -m jumplora_server serve --dtype "$dtype" \
        >"$WORK/serve-$dtype.log" 2>&1 &
    server=$!
    curl -sf --retry 60 --retry-delay 1 --retry-all-errors "http://127.0.0.1:$port/readyz" >/dev/null
    for folder in "$WORK"/store/*/; do
        task=$(basename "$folder")
        head -n 500 "$WORK/tasks/$task/dev.jsonl" >"$WORK/$task-dev.jsonl"
        "$python" -m jumplora_server calibrate "$task" --rows "$WORK/$task-dev.jsonl" \
            --server "http://127.0.0.1:$port"
        "$python" -m jumplora_server evaluate --task "$task@$(cat "$folder/current")" \
            --data "$WORK/tasks/$task/test.jsonl" --rows 1600 --server "http://127.0.0.1:$port" \
            --choices --json --quiet >"$WORK/choices/$task-$dtype.json"
    done
    kill "$server"
    wait "$server" || true
    server=
done
