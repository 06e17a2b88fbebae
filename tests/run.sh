#!/usr/bin/env bash
# Installs what the tests need, builds, runs them; ends with CTest's summary.
set -eu

usage() {
	cat <<-END
	usage: tests/run.sh [--all] [NAME...]

	Builds in build/ and runs the unit and integration tests.
	  --all     adds the fault tests, those in containers (where there is docker), and the unit and integration tests again
	            under AddressSanitizer and UBSan (build-asan/) and under ThreadSanitizer (build-tsan/); about 40 minutes on two cores
	  NAME      only tests whose name contains it: "net", "integration", "unit.test_x509"

	examples:
	  tests/run.sh
	  tests/run.sh main_job
	  tests/run.sh --all fault
	END
}

all=
names=()
for argument in "$@"; do
	case $argument in
	--all) all=1 ;;
	-h | --help) usage; exit 0 ;;
	-*) usage >&2; exit 2 ;;
	*) names+=("$argument") ;;
	esac
done

cd "$(dirname "$0")/.."
deploy/install-deps.sh --tests

jobs=$(nproc)
filter=()
[ ${#names[@]} -eq 0 ] || filter=(-R "$(IFS='|'; echo "${names[*]}")")
# A misspelt name is no success; with --all it may well name tests that only one of the builds runs.
[ -n "$all" ] && [ ${#names[@]} -gt 0 ] || filter+=(--no-tests=error)

# build PRESET: quiet unless something is wrong.
build() {
	local log
	log=$(mktemp)
	printf '== building %s\n' "$1"
	if ! { cmake --preset "$1" && cmake --build --preset "$1" -j "$jobs"; } >"$log" 2>&1; then
		tail -n 60 "$log" >&2
		rm -f "$log"
		printf 'tests/run.sh: building the preset %s failed, see above\n' "$1" >&2
		exit 1
	fi
	rm -f "$log"
}

failed=()
# run PRESET DIRECTORY LABELS: the tests of one build.
run() {
	printf '== testing %s: %s\n' "$1" "$3"
	ctest --test-dir "$2" -j "$jobs" --output-on-failure -L "^($3)\$" "${filter[@]}" || failed+=("$1")
}

build release
if [ -z "$all" ]; then
	run release build 'unit|integration'
else
	build asan
	build tsan
	run asan build-asan 'unit|integration'
	run tsan build-tsan 'unit|integration'
	run release build 'unit|integration|fault|container'
fi
if [ ${#failed[@]} -gt 0 ]; then
	printf 'tests/run.sh: failed in: %s\n' "${failed[*]}" >&2
	exit 1
fi
