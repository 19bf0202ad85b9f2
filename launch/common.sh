# shellcheck shell=bash
# Sourced by the launchers: --dry-run, required settings, and the command that every host runs.

dry=
if [ "${1:-}" = --dry-run ]; then
  dry=yes
  shift
fi

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

# main with the given flags, quoted for a remote shell, started again while it asks for that (75).
forever() {
  local command
  printf -v command '%q ' .venv/bin/python -m wmpo_jax.main "$@"
  echo "while true; do $command; code=\$?; [ \$code = 75 ] || exit \$code; sleep 5; done"
}
