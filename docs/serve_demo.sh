#!/usr/bin/env bash
# A steered server from nothing: vectors, the server, three requests, the end. `bash docs/serve_demo.sh BIN`, where BIN is
# the bin folder of an environment with vLLM and kvsteer_lab.
set -euo pipefail
bin="$1" port="${PORT:-8017}" folder="$(mktemp -d)"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}"
export VLLM_CPU_OMP_THREADS_BIND="${VLLM_CPU_OMP_THREADS_BIND:-nobind}" VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=WARNING

"$bin/python" -m kvsteer_lab.cli extract --model smollm2-135m --n 6 --shots 1 --out "$folder/stepwise.safetensors"
"$bin/python" -m kvsteer_lab.cli serve smollm2-135m --vectors "stepwise=$folder/stepwise.safetensors" -- \
    --port "$port" --dtype float32 --enforce-eager --max-model-len 512 --block-size 32 --served-model-name smollm2 &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
until curl -sf "http://127.0.0.1:$port/health" >/dev/null; do
    kill -0 "$server" 2>/dev/null || { echo "The server didn't start."; exit 1; }
    sleep 1
done

ask() {
    echo; echo "== $1"
    curl -s -D - "http://127.0.0.1:$port/v1/chat/completions" -H 'content-type: application/json' -d "{\"model\": \"smollm2\",
      \"messages\": [{\"role\": \"user\", \"content\": \"What is 17 + 5?\"}], \"max_tokens\": 40, \"temperature\": 0 $2}" |
        grep -i -E '^HTTP|^x-kv-steering|"content"|"error"' | sed -E 's/.*"(content|message)": *"(([^"\\]|\\.)*)".*/\2/; s/\r//'
}
ask "coefficient zero: the baseline" ', "kv_steering": {"vectors": "stepwise", "cv": 0}'
ask "steered" ', "kv_steering": {"vectors": "stepwise", "ck": 0, "cv": 8}'
ask "a name that the server doesn't have" ', "kv_steering": {"vectors": "other", "cv": 8}'
