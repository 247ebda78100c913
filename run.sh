#!/usr/bin/env bash
# One command on a machine that has only Python: makes the environment, then trains, tests or runs Python.
# `./run.sh help` lists what it can do. Everything runs in the repository's root directory.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

readonly environment=.venv
# Holds what was installed once an installation is complete, and the word 'incomplete' while one is under way.
readonly stamp=$environment/run.sh.stamp

usage() {
  cat <<'TEXT'
usage: ./run.sh [FLAGS]              train the quickstart (experiments/quickstart.flags) into runs/quickstart/;
                                     FLAGS of dpgan_jax.train are added, e.g. ./run.sh --seed=1
       ./run.sh test [ARGS]          lint and tests; ARGS go to pytest, e.g. ./run.sh test tests/test_export.py
       ./run.sh test-slow [ARGS]     the tests that take minutes
       ./run.sh python [ARGS]        Python in the environment, e.g. ./run.sh python -m dpgan_jax.sample --help
       ./run.sh help                 this page

The first call makes the environment in .venv with Python >= 3.11 and installs requirements.txt into it.
Paths are relative to the directory of run.sh. For an NVIDIA GPU, once: ./run.sh python -m pip install -e '.[cuda]'
TEXT
}

fail() {
  echo "run.sh: $1" >&2
  exit "$2"
}

# Prints the first interpreter that is new enough and can make environments. It is run, not just looked up:
# version managers put names on the PATH that only say that the version is not selected.
find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
      >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  fail 'found no Python >= 3.11 with the venv module; install one (on Debian and Ubuntu: python3 and python3-venv)' 1
}

# What a complete installation was made from. The path is part of it: scripts in an environment and the editable
# installation hold absolute paths, so a repository that was moved needs them made anew.
wanted() {
  pwd -P
  cat requirements.txt pyproject.toml
}

installed() {
  # The interpreter that an environment was made with can be gone after an upgrade of the system.
  [[ $(cat "$stamp" 2>/dev/null) == "$(wanted)" ]] && "$environment/bin/python" -c '' 2>/dev/null
}

# True if requirements can be installed into what is there: an older complete installation at this path, or an
# environment that a person made by hand. Half an installation and one that was moved are not repaired but replaced.
usable() {
  local made_at=''
  if [[ -e $stamp ]]; then IFS= read -r made_at <"$stamp" && [[ $made_at == "$(pwd -P)" ]] || return 1; fi
  "$environment/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

install() {
  local python
  if installed; then return; fi
  # A second call in another terminal waits here instead of working on the same files. (macOS has no flock.)
  exec 9>"$environment.lock"
  if command -v flock >/dev/null; then flock 9; fi
  if installed; then
    exec 9>&-
    return
  fi
  if ! usable; then
    python=$(find_python)
    echo "run.sh: making the environment in $environment with $("$python" --version)" >&2
    rm -rf "$environment"
    mkdir "$environment"
    echo incomplete >"$stamp"
    "$python" -m venv "$environment"
  fi
  echo incomplete >"$stamp"
  echo 'run.sh: installing requirements.txt (a few minutes the first time)' >&2
  # Python compiles what is imported, when it is; most of what is installed never is.
  "$environment/bin/python" -m pip --disable-pip-version-check install -qq --no-compile -r requirements.txt
  "$environment/bin/python" -m pip --disable-pip-version-check install -qq --no-deps \
    --no-build-isolation --editable .
  wanted >"$stamp.new"
  mv "$stamp.new" "$stamp"
  exec 9>&-
}

run_tests() {
  # Each worker compiles with every core, so more workers than this only help on a larger machine (`-n 8` then).
  exec "$environment/bin/python" -m pytest -n 2 --dist loadfile "$@"
}

case ${1-} in
  help | -h | --help)
    usage
    ;;
  test)
    shift
    install
    "$environment/bin/ruff" check
    run_tests "$@"
    ;;
  test-slow)
    shift
    install
    run_tests -m slow "$@"
    ;;
  python)
    shift
    install
    # So that a file of experiments/ finds the others by whatever name it is started.
    PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} exec "$environment/bin/python" "$@"
    ;;
  '' | -*)
    install
    exec "$environment/bin/python" -m dpgan_jax.train --flagfile=experiments/quickstart.flags "$@"
    ;;
  *)
    fail "unknown command '$1'; expected test, test-slow, python, help, or flags of dpgan_jax.train" 2
    ;;
esac
