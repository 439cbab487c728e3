#!/usr/bin/env bash
# Pre-trains on Cloud TPU VMs, from one host to a pod, including spot machines. See --help.
set -euo pipefail

POLL_SECONDS=${POLL_SECONDS:-30}
MAX_RESTARTS=${MAX_RESTARTS:-100}
PREEMPTED=75     # exit code of a training that has saved after a stop signal
SAVE_SECONDS=300 # time for the workers to save and end
REMOTE=sit_jax   # folder of the project on each worker, in the home folder
TRIES=3          # of a command that fails although the machine exists
PATIENCE=120     # tries after gcloud has worked once: this machine's network may be down for an hour
tries=$TRIES     # of gcloud queries

usage() {
  cat <<'EOF'
Usage: launch/tpu_vm.sh COMMAND NAME --zone=ZONE [OPTION]... [-- ARGS...]

Runs `python -m sit_jax.main ARGS` on all workers of the Cloud TPU NAME, by gcloud.

  create    request the TPU (a queued resource) and wait until it is active
  setup     copy this project to all workers and install its requirements
  run       start the training on all workers and follow it; the training continues when this command ends
  logs      follow the training again
  status    show the state of the TPU and of the training on each worker
  stop      save and end the training (a running `up` restarts it: end `up` first)
  delete    delete the TPU
  up        create if missing, setup, run; after a preemption, create again if needed and resume

  --zone=ZONE        zone of the TPU
  --type=TYPE        accelerator type, such as v5litepod-16 (create, up)
  --project=PROJECT  Google Cloud project; default: gcloud's project
  --spot             use a spot TPU: much cheaper, may be taken away at any time (create, up)
  --version=VERSION  runtime version; default: the usual version for the type (create, up)
  --mount=COMMAND    shell command that mounts --workdir and the data, run on all workers at each setup (setup, up)
  --yes              delete without asking (delete, up)
  --dry-run          print the commands without running them
  --help             show this help

Examples:
  launch/tpu_vm.sh up my-tpu --zone=us-west4-a --type=v5litepod-16 --spot \
    --mount='sudo mkdir -p /mnt/shared && { mountpoint -q /mnt/shared || sudo mount 10.0.0.2:/share /mnt/shared; }' -- \
    --config=configs/stl10.py --workdir=/mnt/shared/stl10
  launch/tpu_vm.sh logs my-tpu --zone=us-west4-a
  launch/tpu_vm.sh delete my-tpu --zone=us-west4-a

What it does: `run` exits with the exit code of the training on worker 0: 0 done, 2 wrong input, 75 preempted (run it
again). `up` restarts the training itself, at most MAX_RESTARTS times: on the same TPU or, if that was taken away, on a
new TPU. Before it creates a new TPU, it deletes the remains of the old TPU; it asks for permission once, at its start.
This machine must stay on for `up`, but its network may be down for up to an hour. The training itself does not need
this machine. A TPU costs money until `delete`, even after the end of the training.
--workdir must be a folder that all workers see under the same path, such as a mounted Filestore share or a bucket
mounted with gcsfuse; it cannot be a gs:// path, unlike the images. A new TPU has no mounts: with --spot, use --mount.
Otherwise the training starts anew in an empty folder. On each worker, the project is in ~/sit_jax, where relative
paths in ARGS start, and its output is in ~/sit_jax/run.log. Setup needs internet access on the workers.

Environment: POLL_SECONDS (default: 30) between two queries of the state, MAX_RESTARTS (default: 100).
EOF
}

fail() {
  echo "error: $*" >&2
  exit 2
}

die() {
  echo "error: $*" >&2
  exit 1
}

say() { echo "tpu_vm.sh: $*" >&2; }

quote() { # prints a command as it would be typed
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
}

run() { # runs a command, or prints it
  if ((dry_run)); then quote "$@"; else "$@"; fi
}

# --- the command line ---

parse() {
  action='' name='' zone='' type='' project='' spot=0 version='' mount='' yes=0 dry_run=0 args=()
  while (($#)); do
    case $1 in
      -h | --help) usage && exit 0 ;;
      --zone=?*) zone=${1#*=} ;;
      --type=?*) type=${1#*=} ;;
      --project=?*) project=${1#*=} ;;
      --version=?*) version=${1#*=} ;;
      --mount=?*) mount=${1#*=} ;;
      --spot) spot=1 ;;
      --yes) yes=1 ;;
      --dry-run) dry_run=1 ;;
      --) shift && args=("$@") && break ;;
      --zone* | --type* | --project* | --version* | --mount*) fail "${1%%=*} needs a value: ${1%%=*}=VALUE" ;;
      -*) fail "$1 is not understood; the arguments of the training go after --, and --help lists the options" ;;
      *) take_word "$1" ;;
    esac
    shift
  done
}

take_word() { # WORD: the command, then the name
  if [[ -z $action ]]; then
    action=$1
  elif [[ -z $name ]]; then
    name=$1
  else
    fail "'$1' is not understood; the arguments of the training go after --"
  fi
}

check_input() {
  case $action in
    create | setup | run | logs | status | stop | delete | up) ;;
    '') fail "the command is missing: create, setup, run, logs, status, stop, delete or up; see --help" ;;
    *) fail "'$action' is no command; the commands are: create, setup, run, logs, status, stop, delete, up" ;;
  esac
  [[ -n $name ]] || fail "the name of the TPU is missing, such as: launch/tpu_vm.sh $action my-tpu --zone=..."
  [[ $name =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] || fail "'$name' is no name of a TPU: use a-z, 0-9 and -"
  [[ -n $zone ]] || fail "--zone is missing, such as --zone=us-west4-a"
  [[ $POLL_SECONDS =~ ^[0-9.]+$ ]] || fail "POLL_SECONDS must be a number, not '$POLL_SECONDS'"
  [[ $MAX_RESTARTS =~ ^[0-9]+$ ]] || fail "MAX_RESTARTS must be a whole number, not '$MAX_RESTARTS'"
  case $action in create | up) check_type ;; esac
  case $action in run | up) check_arguments ;; esac
  ((dry_run)) || type -P gcloud > /dev/null || fail "there is no gcloud here; install the Google Cloud CLI"
}

check_type() { # also sets version if it is not given
  [[ -n $type ]] || fail "--type is missing, such as --type=v5litepod-16"
  [[ -z $version ]] || return 0
  case $type in
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
    *) fail "--type=$type has no default runtime version; give it with --version=..." ;;
  esac
}

check_arguments() {
  local arg workdir='' config=''
  for arg in "${args[@]}"; do
    case $arg in
      --config=?*) config=$arg ;;
      --workdir=?*) workdir=${arg#*=} ;;
    esac
  done
  [[ -n $config ]] || fail "--config=... is missing among the arguments of the training, which go after --"
  [[ -n $workdir ]] || fail "--workdir=... is missing among the arguments of the training; all workers must see it"
  [[ $workdir != gs://* ]] ||
    fail "--workdir=$workdir is a bucket; mount it on all workers (gcsfuse) and give the path of the mount"
}

confirm() { # QUESTION: asks before a deletion
  local answer
  ((!yes && !dry_run)) || return 0
  [[ -t 0 ]] || fail "$1 There is no terminal to ask on; add --yes to agree"
  read -r -p "$1 [y/N] " answer || true
  [[ $answer == [yY]* ]] || fail "nothing was done"
}

# --- gcloud ---

tpu() { # WORD... : runs or prints a gcloud command on the TPU
  run gcloud compute tpus "$@" "--zone=$zone" ${project:+"--project=$project"}
}

remote() { # WORKER COMMAND: runs a shell command on a worker, or on all
  # A machine that is taken away does not close the connection, so ssh must time out by itself.
  tpu tpu-vm ssh "$name" "--worker=$1" --ssh-flag=-oServerAliveInterval=30 "--command=$2"
}

on_worker() { # WORKER WORD... : runs a command from the last part of this script on a worker, or on all
  local worker=$1
  shift
  remote "$worker" "bash $REMOTE/launch/tpu_vm.sh on-worker $(quote "$@")"
}

find_state() { # TEXT: sets state from the output of gcloud, which may also contain warnings
  [[ $'\n'$1$'\n' =~ $'\n'([A-Z_]+)$'\n' ]] && state=${BASH_REMATCH[1]}
}

get_state() { # sets state to the state of the queued resource, or MISSING
  local output try
  state=''
  if ((dry_run)); then
    tpu queued-resources describe "$name" '--format=value(state.state)'
    return
  fi
  for ((try = 1; try <= tries; try++)); do
    output=$(tpu queued-resources describe "$name" '--format=value(state.state)' 2>&1) && find_state "$output" &&
      tries=$PATIENCE && return
    [[ $output != *NOT_FOUND* ]] || { state=MISSING tries=$PATIENCE && return; }
    say "$output (try $try of $tries)"
    ((try == tries)) || sleep "$POLL_SECONDS"
  done
  die "the state of $name cannot be queried; the output of gcloud is above"
}

is_gone() { # true if the machine was taken away; the state of its queued resource may be outdated
  local output
  get_state
  [[ $state == ACTIVE ]] || return 0
  if output=$(tpu tpu-vm describe "$name" '--format=value(state)' 2>&1); then
    find_state "$output" || true
  elif [[ $output == *NOT_FOUND* ]]; then
    state=MISSING
  fi
  case $state in MISSING | PREEMPTED | TERMINATED | STOPPED | DELETING) ;; *) return 1 ;; esac
}

create() {
  local tier=()
  ((!spot)) || tier=(--spot)
  tpu queued-resources create "$name" "--node-id=$name" "--accelerator-type=$type" "--runtime-version=$version" \
    "${tier[@]}"
  wait_until_active
}

wait_until_active() { # or until it is taken away
  local last='' start=$SECONDS
  get_state
  while ((!dry_run)); do
    [[ $state == "$last" ]] || say "$name: $state (after $(((SECONDS - start) / 60)) min)"
    last=$state
    case $state in
      ACTIVE | SUSPENDING | SUSPENDED | DELETING) return ;;
      FAILED | MISSING) die "$name could not be created; see: launch/tpu_vm.sh status $name --zone=$zone" ;;
    esac
    sleep "$POLL_SECONDS"
    get_state
  done
}

delete() {
  tpu queued-resources delete "$name" --force --quiet
}

setup() {
  local archive=build/$REMOTE-$name.tar.gz
  local end=$'\n' # ends the mount command, which may end in a semicolon or a comment
  local unpack="mkdir -p $REMOTE && tar -xzf $REMOTE.tar.gz -C $REMOTE"
  run mkdir -p build &&
    run tar -czf "$archive" --exclude=__pycache__ sit_jax configs launch requirements*.txt &&
    tpu tpu-vm scp "$archive" "$name:$REMOTE.tar.gz" --worker=all &&
    remote all "$unpack && bash $REMOTE/launch/tpu_vm.sh on-worker setup${mount:+" && { $mount$end}"}"
}

status() {
  tpu queued-resources describe "$name" '--format=yaml(state)'
  on_worker all state || say "not all workers can be queried"
}

# --- the training ---

start() {
  on_worker all start -- "${args[@]}" && tries=$PATIENCE
}

follow() { # shows the output of worker 0; sets code to the exit code of the training, or to "gone"
  local answer misses=0 limit=$tries
  code=''
  trap 'leave_it_running' INT
  while [[ -z $code ]]; do
    on_worker 0 logs || true # its exit code may come from the connection
    if ((dry_run)); then
      on_worker 0 code
      code=0
    elif answer=$(on_worker 0 code) && [[ $answer =~ ^[0-9]+$ ]]; then
      code=$answer
    elif [[ $answer != running ]] && is_gone; then
      code=gone
    elif [[ $answer == none ]] || { [[ $answer != running ]] && ((++misses >= limit)); }; then
      die "worker 0 of $name does not report the state of the training; see: launch/tpu_vm.sh status $name --zone=$zone"
    else
      say "the connection was lost; showing the last lines again"
      sleep "$POLL_SECONDS"
    fi
  done
  trap - INT
  [[ $code == gone ]] || on_worker all end "$SAVE_SECONDS" || true # the other workers save and end too
}

leave_it_running() {
  say "the training continues; follow it with logs, end it with stop: launch/tpu_vm.sh logs $name --zone=$zone"
  exit 130
}

run_once() {
  start
  follow
  ((dry_run)) || report
}

report() { # ends with the exit code of the training
  [[ $code != gone ]] || { say "$name was taken away; create it again, or use up" && exit "$PREEMPTED"; }
  say "the training ended with exit code $code; $name still costs money: launch/tpu_vm.sh delete $name --zone=$zone"
  exit "$code"
}

ensure_active() { # ends with a usable TPU, or one that was just taken away
  get_state
  while [[ $state == SUSPENDING || $state == DELETING ]]; do sleep "$POLL_SECONDS" && get_state; done
  [[ -z $lost || $state != ACTIVE ]] || state=SUSPENDED
  case $state in
    ACTIVE) ;;
    MISSING) create ;;
    SUSPENDED | FAILED)
      say "$name: $state; deleting and creating it again"
      delete
      create
      ;;
    *) wait_until_active ;;
  esac
}

is_running() { # true if the training already runs on worker 0
  local answer
  answer=$(on_worker 0 code 2> /dev/null) && [[ $answer == running ]]
}

round() { # one start of the training; sets code as follow does, or to "failed"
  code=failed
  [[ $state == ACTIVE ]] || return 0
  is_running || setup || return 0
  start || return 0
  follow
}

up() {
  local restarts failures=0
  confirm "If $name is taken away, its remains are deleted and it is created again. Continue?"
  lost=''
  for ((restarts = 0; ; restarts++)); do
    ensure_active
    round
    [[ $code != failed ]] || ! is_gone || code=gone
    lost=''
    case $code in
      gone) lost=1 && say "$name was taken away" ;;
      "$PREEMPTED") say "the training was preempted" ;;
      failed) ((++failures < TRIES)) || die "the training could not be started on $name; the reason is above" ;;
      *) report ;;
    esac
    [[ $code == failed ]] || failures=0
    ((restarts < MAX_RESTARTS)) || { say "the limit of $MAX_RESTARTS restarts is reached" && exit "$PREEMPTED"; }
    sleep "$POLL_SECONDS"
    say "starting again ($((restarts + 1)) of at most $MAX_RESTARTS)"
  done
}

show_up() { # the commands of up if nothing exists yet
  get_state
  create
  setup
  start
  follow
  echo "# after a preemption, if $name was taken away:"
  delete
  echo "# then again from the second line; if $name still exists, from the setup"
}

# --- on the worker: the copy of this script that setup made there ---

worker() { # COMMAND...
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  local command=$1
  shift
  [[ ${1:-} != -- ]] || shift
  "worker_$command" "$@"
}

worker_setup() {
  # The machine's Python is too old; uv installs a newer Python without system packages.
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --allow-existing --python 3.12 .venv
  python3 -m uv pip install --quiet --python .venv/bin/python -r requirements.txt \
    -r requirements-tpu.txt -r requirements-remote.txt # images in gs:// need the last
}

worker_running() { [[ -e run.pid ]] && kill -0 "$(cat run.pid)" 2> /dev/null; }

worker_start() { # ARGS: detached, to outlive the connection
  local request
  request=$(quote "$@")
  if worker_running; then
    # If the connection fails during a command, gcloud repeats the command.
    [[ $(cat run.args) == "$request" ]] || die "another training runs on $(hostname); end it first with stop"
    return 0
  fi
  rm -f run.exit
  echo "$request" > run.args
  [[ ! -e run.log ]] || mv run.log run.log.old
  nohup setsid bash launch/tpu_vm.sh on-worker train -- "$@" > run.log 2>&1 < /dev/null &
  echo $! > run.pid
}

worker_train() { # ARGS: runs the training and keeps its exit code
  local code=0
  trap : TERM # the training gets the signal too; this script waits for it
  PYTHONUNBUFFERED=1 "${PYTHON:-.venv/bin/python}" -m sit_jax.main "$@" || code=$?
  echo "$code" > run.exit.new
  mv run.exit.new run.exit
}

worker_logs() { tail -n 100 "--pid=$(cat run.pid)" -f run.log; }

worker_code() { # prints the exit code of the training, "running", or "none": there is no training, or it was killed
  if worker_running; then echo running; else cat run.exit 2> /dev/null || echo none; fi
}

worker_state() {
  local code
  code=$(worker_code)
  echo "$(hostname): ${code/none/no training, or it was killed}"
}

worker_stop() { worker_end 0; }

worker_end() { # SECONDS: waits that long for the training to end, then makes it save and end, then kills it
  worker_running || return 0
  worker_wait "$1" || kill -TERM -- "-$(cat run.pid)" 2> /dev/null || true
  worker_wait "$SAVE_SECONDS" || kill -KILL -- "-$(cat run.pid)" 2> /dev/null || true
}

worker_wait() { # SECONDS: true if the training ends within this time
  local end=$((SECONDS + $1))
  while worker_running; do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}

main() {
  if [[ ${1:-} == on-worker ]]; then
    shift
    worker "$@"
    return
  fi
  parse "$@"
  check_input
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  case $action in
    run) run_once ;;
    logs) follow && { ((dry_run)) || report; } ;;
    stop) on_worker all stop ;;
    delete)
      confirm "Delete $name in $zone with all data on its disks?"
      delete
      ;;
    create)
      create
      [[ $state == ACTIVE ]] || ((dry_run)) || die "$name was taken away right after its creation"
      ;;
    up) if ((dry_run)); then show_up; else up; fi ;;
    *) "$action" ;;
  esac
}

main "$@"
