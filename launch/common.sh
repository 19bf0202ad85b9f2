# shellcheck shell=bash
# Sourced by the launchers: --dry-run, --help, required settings, and the command that every host runs.

dry=
arguments=()
for argument in "$@"; do
  case $argument in
  --dry-run) dry=yes ;;
  --help | -h)
    # The script's own head.
    sed -n '2,/^[^#]/{s/^#$//;s/^# //p}' "${BASH_SOURCE[0]%/*}/$(basename "$0")"
    exit 0
    ;;
  *) arguments+=("$argument") ;;
  esac
done
set -- "${arguments[@]}"

# Prints what would be executed, quoted so that it can be pasted, or executes it.
run() {
  if [ -n "$dry" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

need() {
  local name
  for name in "$@"; do
    if [ -z "${!name:-}" ]; then
      echo "$0: set $name (see the head of the script)" >&2
      exit 2
    fi
  done
}

# main with the given flags, quoted for a remote shell, started again while it exits with 75.
forever() {
  local command
  printf -v command '%q ' .venv/bin/python -m wmpo_jax.main "$@"
  echo "while true; do $command; code=\$?; [ \$code = 75 ] || exit \$code; sleep 5; done"
}
