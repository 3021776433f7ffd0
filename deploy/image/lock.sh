#!/usr/bin/env bash
# lock.sh UV LOCK TORCH: writes the image's packages with their hashes to LOCK, and those of the tools
# that build it beside it. TORCH is an index or a folder with torch's wheel; its local version (+cpu,
# +cu126) is pinned, so that pip takes no other build. Called by `make lock`.
set -euo pipefail
uv=$1 lock=$2 torch=$3
case $torch in http*) from=(--index "$torch" --index-strategy unsafe-best-match) ;; *) from=(--find-links "$torch") ;; esac
case $torch in http*) build=${torch##*/} ;; *) build=cpu ;; esac
version=$(sed -n 's/^torch==//p' constraints.txt)
head_of() { sed '/^#/!Q' "$1"; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
echo "torch==$version+$build" > "$scratch/torch.txt"
compile() { "$uv" pip compile --quiet --generate-hashes --no-header --no-annotate --python-version 3.11 "$@"; }
compile pyproject.toml --extra traces --constraint constraints.txt --override "$scratch/torch.txt" "${from[@]}" \
    --python-platform x86_64-manylinux_2_28 --output-file "$scratch/lock"
compile deploy/image/tools.in --constraint constraints.txt --output-file "$scratch/tools"
{ head_of deploy/image/requirements.lock; cat "$scratch/lock"; } > "$scratch/new" && mv "$scratch/new" "$lock"
{ head_of deploy/image/tools.lock; cat "$scratch/tools"; } > "$scratch/new" && mv "$scratch/new" deploy/image/tools.lock
