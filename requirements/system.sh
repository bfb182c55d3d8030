#!/bin/sh
# What vLLM's CPU build needs from the system and no wheel carries. Installs it where it may (root, with apt-get);
# otherwise names what is missing and stops. Usage: system.sh PYTHON
set -eu
python=$1

fail() {
    printf 'trimtab set-up: %s\n' "$1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || fail "$python is not on PATH: install CPython 3.11, or name one: make PYTHON=/path/to/python3.11 …"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) or sys.implementation.name != "cpython")' ||
    fail "$python is not CPython 3.11, for which the lock is made: name one with make PYTHON=/path/to/python3.11 …"
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    fail "the lock is made for Linux on x86-64, and this is $(uname -s) on $(uname -m): use a container of that kind"
grep -qw avx2 /proc/cpuinfo || fail "vLLM's CPU build needs a processor with AVX2 (AVX-512 is faster), and this one has none"

# Each line: a Debian package, and the test that passes when it is not needed.
missing=
need() { eval "$2" >/dev/null 2>&1 || missing="$missing $1"; }
need libnuma1 "\"$python\" -c 'import ctypes; ctypes.CDLL(\"libnuma.so.1\")'"            # linked by vllm's extensions
need g++ "command -v ${CXX:-g++}"                                     # torch.compile builds its kernels
need python3.11-dev "test -f \"\$(\"$python\" -c 'import sysconfig; print(sysconfig.get_path(\"include\"))')/Python.h\""  # and binds them
need python3.11-venv "\"$python\" -c 'import ensurepip, venv'"
# Only tests/browser/ needs it: installed where it may be, and no reason not to serve.
may=$([ "$(id -u)" = 0 ] && command -v apt-get || true)
command -v chromium >/dev/null 2>&1 || { [ -n "$may" ] && missing="$missing chromium" ||
    printf 'trimtab set-up: no chromium here, which the tests of the dashboard need (make serve does not)\n' >&2; }
# Only tests run it: without it the server is none the worse.
wanted=
{ command -v promtool && command -v prometheus; } >/dev/null 2>&1 || wanted=" prometheus"
[ -n "$missing$wanted" ] || exit 0

if [ -n "$may" ]; then
    printf 'trimtab set-up: installing%s\n' "$missing$wanted"
    # shellcheck disable=SC2086  # a list of package names
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing $wanted; } ||
        fail "apt-get could not install$missing$wanted: install them by hand, then run make again"
elif [ -z "$missing" ]; then
    printf 'trimtab set-up: tests of deploy/ need%s, which is not here (Debian'"'"'s name); going on\n' "$wanted"
else
    fail "missing on this system:$missing (Debian's names). As root: apt-get install$missing; then run make again"
fi
