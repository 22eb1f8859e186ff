#!/usr/bin/env bash
# Starts a recipe of this folder: recipes/verl/run.sh RECIPE [scale=...] [strategy=...] [objective=...] [key=value ...]
#   recipes/verl/run.sh math                                32B, DGPO
#   recipes/verl/run.sh math strategy=megatron              32B, DGPO, with Megatron in place of FSDP2
#   recipes/verl/run.sh math scale=7b objective=dapo        one node, the DAPO baseline
#   recipes/verl/run.sh quick                               a machine without a GPU
# Environment:
#   DGPO_DATA    folder that `dgpo verl-data FOLDER` has filled, readable from every node. With `--train FILE`, it holds
#                data of your own, train.parquet and val.parquet, which are used in place of DAPO-Math-17k and AIME
#   DGPO_MODEL   model folder readable from every node, or a name on the hub
#   PYTHON       interpreter with dgpo[verl] and vLLM (default: python3)
#   RAY_ADDRESS  Ray to connect to. Without it `quick` has a node of its own (ray_node.py), and verl starts one for `math`
# For several nodes start Ray on them first (`ray start --head`, `ray start --address=...`) and run this on the head node.
# On one machine that is too busy for Ray's start: python recipes/verl/ray_node.py -- recipes/verl/run.sh math ...
set -euo pipefail

fail() { echo "run.sh: $*" >&2; exit 2; }

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${PYTHON:-python3}"
recipe="${1:-}"
[[ -n "$recipe" && -f "$here/$recipe.yaml" ]] ||
  fail "name a recipe: $(cd "$here" && ls ./*.yaml | sed -E 's|^\./||; s|\.yaml$||' | paste -sd' '); got '$recipe'."
shift
reason="$("$python" -c 'import verl, dgpo' 2>&1 >/dev/null)" ||
  fail "$python cannot import verl and dgpo (${reason##*$'\n'}); set PYTHON to one of an environment with dgpo[verl]."

if [[ "$recipe" == quick ]]; then
  stand_ins="$here/../../tests/engines/verl"
  [[ -f "$stand_ins/verl_cpu.py" ]] || fail "the quick recipe needs a checkout of dgpo: $stand_ins/verl_cpu.py is not there."
  export VERL_PLATFORM=cpu VERL_USE_EXTERNAL_MODULES=verl_cpu OMP_NUM_THREADS=1 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0
  export PYTHONPATH="$stand_ins${PYTHONPATH:+:$PYTHONPATH}"
  # Ray hands the worker a "GPU" as a label, and refuses to where this hides them all.
  unset CUDA_VISIBLE_DEVICES
  DGPO_DATA="${DGPO_DATA:-$PWD/runs/verl-quick}"
  DGPO_MODEL="$("$python" "$here/quick.py" "$DGPO_DATA" | tail -n 1)"
  set -- "paths.recipe=$here" "$@"
else
  [[ -n "${DGPO_DATA:-}" ]] || fail "set DGPO_DATA to a folder filled by: dgpo verl-data FOLDER"
  if [[ -f "$DGPO_DATA/train.parquet" && -f "$DGPO_DATA/val.parquet" ]]; then
    own="$(cd "$DGPO_DATA" && pwd)"
    set -- "data.train_files=$own/train.parquet" "data.val_files=$own/val.parquet" "$@"
  elif [[ " $*" != *" data.train_files="* || " $*" != *" data.val_files="* ]]; then
    for name in dapo-math-17k aime24 aime25; do
      [[ -f "$DGPO_DATA/$name.parquet" ]] || fail "DGPO_DATA=$DGPO_DATA has no $name.parquet; make it with: dgpo verl-data $DGPO_DATA. Data of your own: dgpo verl-data $DGPO_DATA --train FILE"
    done
  fi
  [[ -n "${DGPO_MODEL:-}" ]] || fail "set DGPO_MODEL to a model folder or a name on the hub, such as Qwen/Qwen2.5-32B"
  if [[ "$DGPO_MODEL" == /* || "$DGPO_MODEL" == .* || "$DGPO_MODEL" == ~* ]]; then
    [[ -f "$DGPO_MODEL/config.json" ]] || fail "DGPO_MODEL=$DGPO_MODEL has no config.json."
    DGPO_MODEL="$(cd "$DGPO_MODEL" && pwd)"
  fi
  DGPO_DATA="$(cd "$DGPO_DATA" && pwd)"
fi

set -- "paths.data=$DGPO_DATA" "paths.model=$DGPO_MODEL" "$@"
run=("$python" -m verl.trainer.main_ppo --config-path "$here" --config-name "$recipe" "$@")
# What cannot work is refused here, before Ray starts and a model is loaded.
"$python" "$here/check.py" "$recipe" "$@" || exit 2
if [[ "$recipe" == quick && -z "${RAY_ADDRESS:-}" ]]; then
  # A worker claims a "GPU" and many CPUs of Ray; both are only labels here
  run=("$python" "$here/ray_node.py" --num-cpus=32 --num-gpus=1 --include-dashboard=False -- "${run[@]}")
fi
exec "${run[@]}"
