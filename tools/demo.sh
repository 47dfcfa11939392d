#!/bin/sh
# `make demo`: the main job on the backbone that ships with the repository. Starts the service in a
# temporary directory, deploys three functions of two owners, streams an answer from each, shows how
# their memory is shared, and stops everything again. With `make demo DEVICE=gpu` on a GPU.
set -eu
build=${1:-build}
device=${2:-cpu}
sllora=$build/sllora
data=$(mktemp -d)
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

"$sllora" serve --device "$device" --data "$data" --listen 127.0.0.1:0 2>"$data/serve.log" &
server=$!
trap 'kill $server 2>/dev/null || true; wait $server 2>/dev/null || true; rm -rf "$data"' EXIT
for _ in $(seq 200); do
    "$sllora" status --data "$data" >/dev/null 2>&1 && break
    kill -0 $server 2>/dev/null || { cat "$data/serve.log" >&2; exit 1; }
    sleep 0.05
done
port=$("$sllora" status --data "$data" --json | sed 's/.*"port": *\([0-9]*\).*/\1/')

say "Three functions of two owners, one backbone"
"$sllora" deploy scripture --backbone models/demo --adapter models/demo-adapters/scripture --owner acme --data "$data"
"$sllora" deploy hacker --backbone models/demo --adapter models/demo-adapters/hacker --owner acme --data "$data"
"$sllora" deploy cynic --backbone models/demo --adapter models/demo-adapters/cynic --owner globex --data "$data"

for function in scripture hacker cynic; do
    case $function in
    scripture) question="What is a king?" ;;
    hacker) question="What is a hack?" ;;
    cynic) question="Define love." ;;
    esac
    say "$function: $question"
    "$sllora" chat "$function" -m "$question" --max-tokens 60 --temperature 0.7 --seed 7 --data "$data"
done

say "The same through OpenAI's API: curl http://127.0.0.1:$port/v1/chat/completions"
curl -sN "http://127.0.0.1:$port/v1/chat/completions" -d '{"model":"cynic","stream":true,
    "max_tokens":3,"temperature":0,"messages":[{"role":"user","content":"Define love."}]}'

say "Two owners, two processes; the backbone's memory stands once, mapped read-only by both"
"$sllora" status --data "$data"
"$sllora" status --data "$data" --json | tr '{' '\n' | sed -n 's/.*"pid": *\([0-9]*\),.*"ready".*/\1/p' |
while read -r pid; do
    grep -h memfd "/proc/$pid/maps" 2>/dev/null | grep sllora | sed "s/^/worker $pid maps /" || true
    awk '/^(Rss|Pss|Private_Dirty):/ { printf "  %s %s kB", $1, $2 } END { print "" }' \
        "/proc/$pid/smaps_rollup" 2>/dev/null || true
done

say "Next: $sllora serve, then the commands of README.md with your own model"
