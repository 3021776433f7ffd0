#!/bin/sh
# Unpack Debian's prometheus package (prometheus and promtool) into a cache folder. Installs
# nothing, starts no service, needs no root. Prints the folder that holds both programs.
#
#   PROMETHEUS_CACHE   where to unpack; default: .cache/prometheus in the repository
#
# Tests look there, or in the folder that PROMETHEUS_BIN names.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${PROMETHEUS_CACHE:-$here/../../.cache/prometheus}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
bin=$cache/usr/bin

if [ ! -x "$bin/prometheus" ] || [ ! -x "$bin/promtool" ]; then
    command -v apt-get >/dev/null || { echo "fetch.sh needs apt-get and dpkg (Debian, Ubuntu)" >&2; exit 1; }
    command -v dpkg >/dev/null || { echo "fetch.sh needs dpkg" >&2; exit 1; }
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    # The machine's own package lists first. Without them (fresh containers have none), fetch
    # lists into the work folder: the system's are root's.
    if ! apt-get -q download prometheus >log 2>&1; then
        mkdir -p lists/partial archives/partial
        own="-o Dir::State::lists=$work/lists -o Dir::Cache=$work -o Dir::Cache::archives=$work/archives -o Debug::NoLocking=1"
        # shellcheck disable=SC2086
        apt-get -q $own update >>log 2>&1 && apt-get -q $own download prometheus >>log 2>&1 || {
            cat log >&2
            echo "fetch.sh could not download Debian's prometheus package" >&2
            exit 1
        }
    fi
    for package in prometheus_*.deb; do
        dpkg -x "$package" unpacked
    done
    # Only the two programs, and each by rename: a killed run leaves no half of one.
    mkdir -p "$bin"
    for program in prometheus promtool; do
        cp "unpacked/usr/bin/$program" "$bin/.$program.$$"
        mv "$bin/.$program.$$" "$bin/$program"
    done
fi
"$bin/promtool" --version >/dev/null
echo "$bin"
