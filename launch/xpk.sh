#!/usr/bin/env bash
# One run on a GKE cluster of xpk's: a JobSet that xpk writes, submits and follows.
# usage: NAME=vit CLUSTER=c ZONE=z PROJECT=p TPU_TYPE=v6e-16 IMAGE=REGISTRY/vit_jax:tpu \
#        WORKDIR=/gcs/workdirs/vit [SLICES=1] launch/xpk.sh [--dry-run] FLAGS_OF_VIT_JAX_MAIN...
# xpk restarts the JobSet on exit code 42 and when pods are killed, MAX_RESTARTS times.
# The machines are the cluster's: they cost until its node pools are deleted or shrunk.
set -euo pipefail

: "${NAME:?}" "${CLUSTER:?}" "${ZONE:?}" "${PROJECT:?}" "${TPU_TYPE:?}" "${IMAGE:?}" "${WORKDIR:?}"
show=0
if [[ ${1:-} == --dry-run ]]; then
  show=1
  shift
fi

run() {
  printf '%q ' "$@" && echo
  if [[ $show == 0 ]]; then "$@"; fi
}

printf -v train '%q ' python -m vit_jax.main "$@" "--workdir=$WORKDIR"
place=(--cluster="$CLUSTER" --zone="$ZONE" --project="$PROJECT")
delete() { run xpk workload delete --workload="$NAME" "${place[@]}" --force; }
trap 'delete; exit 130' INT TERM

run xpk workload create --workload="$NAME" "${place[@]}" --tpu-type="$TPU_TYPE" \
  --num-slices="${SLICES:-1}" --docker-image="$IMAGE" --command="$train" \
  --max-restarts="${MAX_RESTARTS:-20}" --restart-on-exit-codes=42
run xpk workload list "${place[@]}" --wait-for-job-completion="$NAME"
