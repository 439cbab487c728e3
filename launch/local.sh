#!/usr/bin/env bash
# Pre-trains with several processes on this machine; restarts them after a preemption. See --help.
set -euo pipefail

MAX_RESTARTS=100
GRACE_SECONDS=${GRACE_SECONDS:-60}
PYTHON=${PYTHON:-python}
PREEMPTED=75 # exit code of a training that has saved after a stop signal

usage() {
  cat <<'EOF'
Usage: launch/local.sh N [OPTION]... -- ARGS...

Runs N processes of `python -m sit_jax.main ARGS` on this machine as one training.

  --cpu              use no GPU
  --devices=K        simulate K devices in each process (CPU only)
  --port=P           port of process 0, to which the other processes connect; default: a free port
  --max-restarts=R   restart at most R times after a preemption; default: 100
  --dry-run          print the commands without running them
  --help             show this help

Examples:
  launch/local.sh 8 -- --config=configs/stl10.py                  eight GPUs, one per process
  launch/local.sh 2 --cpu --devices=2 -- --config=configs/digits.py:runlocal
  launch/local.sh 1 -- --config=configs/digits.py                 one process, restarted when preempted

What it does: divides the GPUs in CUDA_VISIBLE_DEVICES (default: all GPUs of nvidia-smi) equally among the processes;
without GPUs, it uses the CPU. Process 0 writes to stdout and stderr; all lines of process I go to stderr, after `[I] `.
- If all processes exit with 75 (preempted, saved), they are restarted with the same arguments and resume.
- If one process fails, or exits with 75 alone, the other processes get GRACE_SECONDS to end by themselves, then
  SIGTERM, and GRACE_SECONDS later SIGKILL. The exit code is the code of the first process that failed; after 75, all
  processes are restarted.
- At Ctrl-C, SIGTERM or SIGHUP, all processes get SIGTERM, save and end. The exit code is theirs, usually 75; nothing is
  restarted. A second Ctrl-C kills the processes.
Relative paths in ARGS start at the root of the project, where the processes run.

Environment: PYTHON (default: python), GRACE_SECONDS (default: 60), CUDA_VISIBLE_DEVICES.
EOF
}

fail() {
  echo "error: $*" >&2
  exit 2
}

say() { echo "local.sh: $*" >&2 || true; } # the terminal may be gone

check_number() { # NAME VALUE LEAST [MOST]: fails unless VALUE is a whole number from LEAST
  if ! [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || (($2 < $3 || $2 > ${4:-$2})); then
    fail "$1 must be a whole number from $3${4:+ to $4}, not '$2'"
  fi
}

parse() {
  processes='' cpu=0 devices='' port='' max_restarts=$MAX_RESTARTS dry_run=0 args=()
  while (($#)); do
    case $1 in
      -h | --help) usage && exit 0 ;;
      --cpu) cpu=1 ;;
      --devices=*) devices=${1#*=} && check_number --devices "$devices" 1 ;;
      --port=*) port=${1#*=} && check_number --port "$port" 1 65535 ;;
      --max-restarts=*) max_restarts=${1#*=} && check_number --max-restarts "$max_restarts" 0 ;;
      --dry-run) dry_run=1 ;;
      --) shift && args=("$@") && break ;;
      --devices | --port | --max-restarts) fail "$1 needs a value: $1=NUMBER" ;;
      -*) fail "$1 is not understood; the arguments of the training go after --, and --help lists the options" ;;
      *)
        [[ -z $processes ]] || fail "'$1' is not understood; the arguments of the training go after --"
        processes=$1 && check_number "the number of processes" "$processes" 1
        ;;
    esac
    shift
  done
  [[ -n $processes ]] || fail "the number of processes is missing; for example: launch/local.sh 2 -- --config=..."
  ((${#args[@]})) || fail "the arguments of the training are missing; give them after --, at least --config=..."
  check_number GRACE_SECONDS "$GRACE_SECONDS" 0
}

check_python() {
  command -v "$PYTHON" > /dev/null || fail "there is no '$PYTHON'; activate the environment or set PYTHON"
}

find_gpus() { # sets gpus to the names of the usable GPUs
  local count=0
  gpus=()
  [[ $cpu == 0 ]] || return 0
  if [[ $dry_run == 1 ]]; then # counts device files instead of running nvidia-smi
    count=$(compgen -G '/dev/nvidia[0-9]*' | wc -l) || true
  else
    count=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU ') || return 0
  fi
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    [[ $CUDA_VISIBLE_DEVICES == -1 ]] || IFS=, read -ra gpus <<< "$CUDA_VISIBLE_DEVICES"
  else
    for ((i = 0; i < count; i++)); do gpus+=("$i"); done
  fi
}

check_devices() {
  ((${#gpus[@]} % processes == 0)) ||
    fail "${#gpus[@]} GPUs are not shared equally by $processes processes; change N or CUDA_VISIBLE_DEVICES"
  [[ -z $devices || ${#gpus[@]} -eq 0 ]] || fail "--devices simulates CPU devices, and there are GPUs; add --cpu"
}

build_command() { # PROCESS PORT: sets command
  local share=$((${#gpus[@]} / processes))
  command=(env PYTHONUNBUFFERED=1) # a kill must not lose buffered output
  if ((share == 0)); then
    command+=(JAX_PLATFORMS=cpu)
    [[ -z $devices ]] || command+=("JAX_NUM_CPU_DEVICES=$devices")
  else
    command+=("CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]:$1*share:share}")")
  fi
  command+=("$PYTHON" -m sit_jax.main "${args[@]}")
  ((processes == 1)) || command+=("--coordinator=127.0.0.1:$2" "--num_processes=$processes" "--process_id=$1")
}

print_commands() {
  local line
  for ((i = 0; i < processes; i++)); do
    build_command "$i" "${port:-PORT}"
    printf -v line '%q ' "${command[@]}"
    echo "${line% }"
  done
}

free_port() { "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

prefix() { # PROCESS: forwards lines until the process closes its output, and ignores signals
  trap '' INT TERM HUP
  local line
  while IFS= read -r line || [[ -n $line ]]; do printf '[%s] %s\n' "$1" "$line" >&2 || true; done
}

start_one() { # PROCESS: runs command in the background; output goes to file descriptors 3 and 4
  # With job control, the command leads its own process group. Ctrl-C and a closed terminal reach it only through this
  # script, and the script can end it together with its children.
  set -m
  "${guard[@]}" "${command[@]}" < /dev/null >&3 2>&4 3>&- 4>&- &
  set +m
  pids[$1]=$!
}

start_all() {
  local address=$port
  pids=() filters=() # pids: the running processes, by number
  [[ -n $address || $processes == 1 ]] || address=$(free_port) || fail "'$PYTHON' does not work; set PYTHON"
  for ((i = 0; i < processes; i++)); do
    build_command "$i" "$address"
    if ((i == 0)); then
      start_one "$i" 3>&1 4>&2
    else
      exec 3> >(prefix "$i") 4>&3
      filters+=($!)
      start_one "$i"
      exec 3>&- 4>&-
    fi
  done
}

end_all() { # SIGNAL: the processes save at SIGTERM; SIGKILL also goes to their children
  local pid
  for pid in "${pids[@]}"; do
    if [[ $1 == KILL ]]; then kill -KILL -- "-$pid"; else kill "-$1" "$pid"; fi 2> /dev/null || true
  done
}

reap() { # removes ended processes from pids and stores their exit codes in result
  local process pid code
  for process in "${!pids[@]}"; do
    pid=${pids[process]} code=0
    if kill -0 "$pid" 2> /dev/null; then continue; fi
    wait "$pid" 2> /dev/null || code=$?
    unset "pids[process]"
    kill -KILL -- "-$pid" 2> /dev/null || true # children it left behind
    ((code != 0)) || continue
    ((result)) || deadline=$((SECONDS + GRACE_SECONDS))
    if ((code != PREEMPTED && !failed && !overdue)); then
      failed=1 result=$code
      say "process $process failed with exit code $code; ending the other processes"
    elif ((!failed)); then
      result=$PREEMPTED
    fi
  done
}

wait_for_all() { # sets result: the code of the first failure, else 75 if a process was preempted, else 0
  local asked=0
  result=0 failed=0 deadline=0 overdue=0
  reap
  while ((${#pids[@]})); do
    if ((result && SECONDS >= deadline)); then overdue=1; fi # this script causes all later exits
    if ((!asked && (stopping || overdue))); then
      asked=1 deadline=$((SECONDS + GRACE_SECONDS))
      end_all TERM
    elif ((killing || overdue && SECONDS >= deadline)); then
      end_all KILL
    fi
    sleep 0.2 || true # Ctrl-C ends it too
    reap
  done
  wait_for_lines
}

wait_for_lines() { # until the last lines of all processes are forwarded
  local pid tries=0
  for pid in "${filters[@]}"; do
    while kill -0 "$pid" 2> /dev/null && ((tries++ < 100)); do sleep 0.05 || true; done
  done
}

interrupt() {
  killing=$stopping # at the second Ctrl-C
  stopping=1
  if ((killing)); then say "killing the processes"; else say "the processes save and end; Ctrl-C again kills them"; fi
}

guard_processes() {
  stopping=0 killing=0 pids=() guard=()
  trap 'stopping=1' TERM HUP # a closing terminal or a shutdown often sends several, so these never kill
  trap interrupt INT
  trap 'end_all KILL' EXIT
  # If this script itself is killed, the processes still save and end (Linux).
  ! setpriv --pdeathsig TERM true 2> /dev/null || guard=(setpriv --pdeathsig TERM)
  # This script sets the number of processes, even inside a Slurm or MPI job.
  unset SLURM_NTASKS OMPI_COMM_WORLD_SIZE
}

run_all() {
  local restarts=0
  while ((!stopping)); do
    start_all
    wait_for_all
    ((result == PREEMPTED && !stopping)) || break
    ((restarts++ < max_restarts)) || { say "preempted; the limit of $max_restarts restarts is reached" && break; }
    say "preempted; starting again ($restarts of at most $max_restarts)"
    sleep 1 || true # a machine that shuts down may signal the processes before this script
  done
  exit "$result"
}

main() {
  ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || fail "bash $BASH_VERSION is too old; 4.4 or newer is needed"
  parse "$@"
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  find_gpus
  check_devices
  if [[ $dry_run == 1 ]]; then
    print_commands
  else
    check_python
    guard_processes
    run_all
  fi
}

main "$@"
