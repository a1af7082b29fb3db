#!/usr/bin/env bash
# The main job on full-size frames: raw biases, a master bias, its verification, its certification.
# Everything lands in the folder demo/ beside the checkout's README; a second call starts anew.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-demo}
if [[ -e $folder && ! -e $folder/.cpplug-demo ]]; then
  echo "The folder $folder is not a demo of cpplug; name another one." >&2
  exit 2
fi
rm -rf "$folder"
mkdir -p "$folder"
touch "$folder/.cpplug-demo"
cd "$folder"
exec 2>&1
export PYTHONUNBUFFERED=1
export CPPLUG_REPO=$PWD/repository
jobs=2
first=2021012000019
last=$((first + 19))

stage() { printf '\n== %s\n' "$1"; }
say() { printf '$ %s\n' "$*" >&2; "$@"; }

stage 'Simulate a night: 26 LATISS bias frames, with the truth beside them'
say cpplug simulate bias --instrument LATISS --count 26 --first-exposure $first --seed 1 \
  -j $jobs -o raw >simulate.txt
tail -n 1 simulate.txt

stage 'Make a repository and register the raw frames'
say cpplug init repository >/dev/null
say cpplug ingest raw -j $jobs

stage 'Build a master bias from the first 20'
say cpplug run bias --instrument LATISS -d "exposure <= $last" -o demo/biasGen -j $jobs >run.txt

stage 'Verify it on the other 6'
say cpplug verify bias --instrument LATISS -i demo/biasGen,LATISS/raw/all \
  -d "exposure > $last" -o demo/verifyBias -j $jobs --format json >verify.json

stage 'Certify it for 2021, and put it into the chain that runs search by default'
say cpplug certify demo/biasGen LATISS/calib/demo bias \
  --begin-date 2021-01-01 --end-date 2022-01-01 --format ids >product.txt
say cpplug chain LATISS/calib LATISS/calib/demo --mode prepend --format ids >/dev/null
echo "certified: $(cat product.txt)"

stage 'Which bias would an exposure get now?'
say cpplug which bias --exposure $((last + 1)) --detector 0 | tail -n 6

stage 'A picture of it'
say cpplug picture "$(cat product.txt)" -o master-bias.png >/dev/null
echo "$folder/master-bias.png"
