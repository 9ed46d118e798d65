#!/usr/bin/env bash
# On a TPU VM: installs the code that was sent, mounts the bucket, starts the run unless
# it is running, and follows its log until it ends; exits with its code. A lost
# connection does not stop the run: the same command finds it again.
# usage: host.sh BUCKET FLAGS_OF_VIT_JAX_MAIN...
set -euo pipefail

bucket=$1
shift
cd "$HOME"
log=$HOME/train.log pid_file=$HOME/train.pid code_file=$HOME/train.code

install() {
  if ! command -v gcsfuse >/dev/null; then
    local key=/usr/share/keyrings/cloud.google.asc
    curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get -qq update
    sudo apt-get -qq install -y gcsfuse
  fi
  mkdir -p "$HOME/gcs"
  mountpoint -q "$HOME/gcs" || gcsfuse --implicit-dirs "$bucket" "$HOME/gcs"
  if [[ ! -x $HOME/venv/bin/python ]]; then
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --python 3.12 "$HOME/venv"
  fi
  python3 -m uv pip install --quiet --python "$HOME/venv/bin/python" -e "$HOME/vit_jax[tpu]"
}

start() {
  local python=$HOME/venv/bin/python
  local command=("$python" launch/supervise.py -- "$python" -m vit_jax.main "$@")
  rm -f "$code_file"
  : >"$log" # there before anybody follows it
  cd "$HOME/vit_jax"
  # shellcheck disable=SC2016  # the inner shell expands them
  setsid nohup bash -c 'code=0; "${@:2}" || code=$?; echo $code >"$1"' \
    run "$code_file" "${command[@]}" >>"$log" 2>&1 </dev/null &
  echo $! >"$pid_file"
  cd "$HOME"
}

if ! { [[ -f $pid_file ]] && kill -0 "$(cat "$pid_file")" 2>/dev/null; }; then
  install
  start "$@"
fi
tail -n +1 --pid="$(cat "$pid_file")" -f "$log"
exit "$(cat "$code_file" 2>/dev/null || echo 255)"
