#!/usr/bin/env bash
# Pre-trains on a Slurm cluster: submits itself as a job that resumes after a preemption or time limit. See --help.
set -euo pipefail

MAX_REQUEUES=${MAX_REQUEUES:-100}
SAVE_SECONDS=${SAVE_SECONDS:-120}
PYTHON=${PYTHON:-python}
WAIT_SECONDS=300 # time for the other processes to end after the first
PREEMPTED=75     # exit code of a training that has saved after a stop signal

usage() {
  cat <<'EOF'
Usage: launch/slurm.sh [OPTION]... -- ARGS...

Submits a job that runs `python -m sit_jax.main ARGS`, one process per GPU on all its nodes.

  --nodes=N            number of nodes; default: 1
  --gpus-per-node=G    GPUs per node, one process for each; default: 1. 0: one process per node, on its CPU
  --time=..            as for sbatch, such as 24:00:00
  --partition=..       as for sbatch
  --account=..         as for sbatch
  --job-name=..        as for sbatch; default: sit_jax
  --cpus-per-task=C    CPU cores per process
  --dry-run            print the commands without running them
  --help               show this help

Examples:
  launch/slurm.sh --gpus-per-node=4 --time=24:00:00 -- --config=configs/stl10.py --workdir=/shared/me/stl10
  launch/slurm.sh --nodes=4 --gpus-per-node=8 --cpus-per-task=12 --partition=gpu --time=12:00:00 -- \
    --config=configs/folder.py --config.data.source=folder:/shared/pictures --workdir=/shared/me/pictures

What it does: checks the input, runs sbatch and prints its output. The log is slurm-JOBID.out in the current folder.
SAVE_SECONDS before the time limit, the training saves and exits with 75; the job then requeues itself, at most
MAX_REQUEUES times, and resumes. Any other exit code of the training is the exit code of the job.
At a preemption, Slurm signals the training, which saves. Slurm kills it after the GraceTime of the partition (if that
is 0, after the KillWait of the cluster). With PreemptMode=REQUEUE, Slurm requeues the job. With CANCEL it does not:
submit the job again to resume. After scancel, the job is not requeued; the training saves if KillWait is long enough.
All nodes must share a file system with --workdir, this project and its Python environment. Activate the environment
first. Relative paths in ARGS start at the root of the project.

Environment, passed to the job by sbatch: PYTHON (default: python), SAVE_SECONDS (default: 120),
MAX_REQUEUES (default: 100).
EOF
}

fail() {
  echo "error: $*" >&2
  exit 2
}

say() { echo "slurm.sh: $*" >&2; }

show() { # prints a command as it would be typed
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
}

check_number() { # NAME VALUE LEAST: fails unless VALUE is a whole number from LEAST
  if ! [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || (($2 < $3)); then fail "$1 must be a whole number from $3, not '$2'"; fi
}

parse() {
  nodes=1 gpus=1 cpus='' job_name=sit_jax dry_run=0 in_job=0 options=() args=()
  while (($#)); do
    case $1 in
      -h | --help) usage && exit 0 ;;
      --nodes=*) nodes=${1#*=} && check_number --nodes "$nodes" 1 ;;
      --gpus-per-node=*) gpus=${1#*=} && check_number --gpus-per-node "$gpus" 0 ;;
      --cpus-per-task=*) cpus=${1#*=} && check_number --cpus-per-task "$cpus" 1 ;;
      --job-name=?*) job_name=${1#*=} ;;
      --time=?* | --partition=?* | --account=?*) options+=("$1") ;;
      --dry-run) dry_run=1 ;;
      --in-job) in_job=1 ;; # set when the job starts this script
      --) shift && args=("$@") && break ;;
      --nodes | --gpus-per-node | --cpus-per-task | --job-name* | --time* | --partition* | --account*)
        fail "${1%%=*} needs a value: ${1%%=*}=VALUE"
        ;;
      *) fail "'$1' is not understood; the arguments of the training go after --, and --help lists the options" ;;
    esac
    shift
  done
}

check_arguments() {
  ((${#args[@]})) || fail "the arguments of the training are missing; give them after --: --config=... --workdir=..."
  require config "such as --config=configs/stl10.py"
  # The default is in this project's folder, where nodes may be unable to write.
  require workdir "give a folder that all nodes share: --workdir=/shared/..."
  check_number MAX_REQUEUES "$MAX_REQUEUES" 0
  check_number SAVE_SECONDS "$SAVE_SECONDS" 1
}

require() { # FLAG REMEDY: fails unless the arguments of the training have the flag
  local arg
  for arg in "${args[@]}"; do
    case $arg in --"$1" | --"$1"=?* | -"$1" | -"$1"=?*) return ;; esac
  done
  fail "--$1 is missing among the arguments of the training; $2"
}

build_submission() { # FOLDER: sets command
  command=(sbatch "--job-name=$job_name" "--nodes=$nodes")
  # One process per GPU: under Slurm, JAX gives process I of a node only the I-th GPU that it sees.
  if ((gpus)); then
    command+=("--ntasks-per-node=$gpus" "--gpus-per-node=$gpus")
  else
    command+=(--ntasks-per-node=1)
  fi
  [[ -z $cpus ]] || command+=("--cpus-per-task=$cpus")
  # The signal goes to the processes, not to this script (that would be B:TERM). They save and end. This script waits
  # for srun and gets their exit code. The signal comes well before the time limit: at the limit, Slurm kills the
  # processes after KillWait (usually 30 s), which may be too short to save.
  command+=(--requeue --open-mode=append "--signal=TERM@$SAVE_SECONDS" "--chdir=$PWD" "--output=$1/slurm-%j.out")
  command+=("${options[@]}" launch/slurm.sh --in-job -- "${args[@]}")
}

build_step() { # CPUS GPUS: sets command
  # When the first process ends, the other processes still save: do not kill them at once, but after WAIT_SECONDS.
  command=(srun --kill-on-bad-exit=0 "--wait=$WAIT_SECONDS")
  [[ -z $1 ]] || command+=("--cpus-per-task=$1") # srun does not inherit it from sbatch
  # JAX selects from the GPUs of the node, so each process must see all GPUs; a bound GPU would always be number 0.
  [[ -z $2 || $2 == 0 ]] || command+=(--gpu-bind=none)
  command+=("$PYTHON" -m sit_jax.main "${args[@]}")
}

submit() { # FOLDER
  build_submission "$1"
  if ((!dry_run)); then
    type -P sbatch > /dev/null || fail "there is no sbatch here; run this where jobs are submitted, or see --dry-run"
    exec "${command[@]}"
  fi
  show "${command[@]}"
  echo "# in the job:"
  build_step "$cpus" "$gpus"
  show "${command[@]}"
  echo "# after exit code $PREEMPTED:"
  echo "scontrol requeue \"\$SLURM_JOB_ID\""
}

run_in_job() {
  local code=0 restarts=${SLURM_RESTART_COUNT:-0}
  build_step "${SLURM_CPUS_PER_TASK:-}" "${SLURM_GPUS_PER_NODE:-}"
  export PYTHONUNBUFFERED=1 # a kill must not lose buffered output
  # No signal is trapped here: scancel also signals this script, which then ends and cannot requeue the job.
  "${command[@]}" || code=$?
  ((code == PREEMPTED)) || exit "$code"
  if ((restarts >= MAX_REQUEUES)); then
    say "preempted; the job ends, because it was requeued $restarts times (MAX_REQUEUES)"
    exit "$code"
  fi
  say "preempted; requeueing the job ($((restarts + 1)) of at most $MAX_REQUEUES)"
  scontrol requeue "$SLURM_JOB_ID" || exit "$code"
}

main() {
  local folder=$PWD
  parse "$@"
  check_arguments
  if ((in_job)); then
    [[ -n ${SLURM_JOB_ID:-} ]] || fail "--in-job is for the job that this script submits"
    run_in_job # in the folder of --chdir: Slurm runs a copy of this script from another folder
  else
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    submit "$folder"
  fi
}

main "$@"
