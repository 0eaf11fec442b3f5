#!/usr/bin/env bash
# Runs the test suites of NATS clients with this program in the place of `nats-server`.
#
#   tests/clients.sh                 nats-py's suite, in a folder of its own below target/
#   tests/clients.sh -k kv           what is named behind goes to pytest
#   NATS_SERVER=/usr/bin/nats-server tests/clients.sh    with another program
#
# The suite's ports are fixed (4222 to 4225, 4555, 8080, 8081, 8222 to 8225). Where the system lets users have
# networks of their own (unshare), each part of it has one, and several run at a time.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

version=2.12.0 # The last whose source distribution holds the tests.
checksum=2981ca4b63b8266c855573fa7871b1be741f1889fd429ee657e5ffc0971a38a1
work=$root/target/clients/nats_py
built=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug/claudebus
program=${NATS_SERVER:-$built}
[ -n "${NATS_SERVER:-}" ] || cargo build --locked

set_up() {
    mkdir -p "$work/bin"
    [ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
    local pip=("$work/venv/bin/pip" --quiet --disable-pip-version-check)
    "${pip[@]}" install "nats-py==$version" pytest==9.* pytest-timeout==2.* nkeys aiohttp aiofiles
    if [ ! -d "$work/suite/tests" ]; then
        "${pip[@]}" download --no-deps --no-binary :all: -d "$work" "nats-py==$version"
        echo "$checksum  $work/nats_py-$version.tar.gz" | sha256sum --check --quiet
        mkdir -p "$work/suite"
        tar -xzf "$work/nats_py-$version.tar.gz" -C "$work/suite" --strip-components=1 \
            --exclude="nats_py-$version/nats"
    fi
    cp tests/clients/nats_py/utils.py "$work/suite/tests/"
    touch "$work/suite/tests/__init__.py"
    [ -d "$work/files" ] || "$work/venv/bin/python" tests/clients/nats_py/files.py "$work/files"
    # The name decides what the program is.
    ln -sf "$program" "$work/bin/nats-server"
}

# Runs a command, in a network of its own if there can be one.
apart() {
    if unshare -rn true 2>/dev/null; then
        unshare -rn sh -c 'ip link set lo up && exec "$0" "$@"' "$@"
    else
        flock "$work/lock" "$@"
    fi
}

suite() {
    export PATH="$work/bin:$PATH" CLIENT_TEST_FILES="$work/files" NATS_SERVER_VERSION=v2.10.0
    local left_out=()
    while IFS= read -r line; do
        case $line in '#'* | '') ;; *) left_out+=(--deselect "${line%% = *}") ;; esac
    done <tests/clients/nats_py/left_out.txt
    cd "$work/suite"
    apart "$work/venv/bin/python" -m pytest -q --timeout 60 "${left_out[@]}" "$@"
}

set_up
if [ $# -gt 0 ]; then
    suite tests "$@"
    exit
fi
# The two longest files beside all others, and one of them in halves.
kv='KVTest or ObjectStoreTest or SubscribeTest'
parts=("tests/test_js.py|-k|$kv" "tests/test_js.py|-k|not ($kv)" "tests/test_client.py" "tests|--ignore=tests/test_js.py|--ignore=tests/test_client.py")
running=()
for part in "${!parts[@]}"; do
    IFS='|' read -ra arguments <<<"${parts[$part]}"
    (suite "${arguments[@]}" -o cache_dir="$work/cache$part") >"$work/part$part.txt" 2>&1 &
    running+=($!)
done
tell() { grep -E '^(FAILED|SUBFAILED|ERROR )|(passed|failed).* in ' "$1" || tail -20 "$1"; }
failed=() status=0
for part in "${!running[@]}"; do
    if wait "${running[$part]}"; then
        tell "$work/part$part.txt"
    else
        failed+=("$part")
        tell "$work/part$part.txt" | sed 's/^/to be run again: /'
    fi
done
# The suite's tests have clocks in them, and four run beside each other on however few processors there are:
# those that failed are run once more by themselves. None found to run again is a failure as well.
for part in "${failed[@]}"; do
    echo "once more, alone:"
    IFS='|' read -ra arguments <<<"${parts[$part]}"
    (suite "${arguments[@]}" -o cache_dir="$work/cache$part" --last-failed --last-failed-no-failures none) \
        >"$work/again$part.txt" 2>&1 || status=1
    tell "$work/again$part.txt"
done
exit $status
