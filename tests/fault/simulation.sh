#!/usr/bin/env bash
# The replicated log on simulated disks, network and clocks, from many seeds; and a proof that its checks bite.
# More: <build>/tests/simulation --first 1000 --seeds 10000
# ctest: timeout=900
set -u
simulation=$1/../tests/simulation
output=$(mktemp)
trap 'rm -f "$output"' EXIT

fail() {
	echo "FAILED: $*" >&2
	cat "$output" >&2
	exit 1
}

"$simulation" ${KDS_TEST_SEEDS:+--seeds "$KDS_TEST_SEEDS"} >"$output" 2>&1 || fail "a seed"
cat "$output"

# The same seed is the same story.
"$simulation" --seed 7 --steps 2000 --verbose >"$output" 2>/dev/null || fail "seed 7"
"$simulation" --seed 7 --steps 2000 --verbose 2>/dev/null | cmp -s - "$output" || fail "seed 7 went another way"

# Each mutant must be noticed, and for what it is.
while read -r mutant words; do
	"$simulation" --mutant "$mutant" >"$output" 2>&1
	status=$?
	[ $status = 1 ] || fail "mutant $mutant: status $status instead of 1"
	grep -Eq "$words" "$output" || fail "mutant $mutant was not noticed for '$words'"
	sed -n "s/^seed/mutant $mutant: seed/p" "$output"
done <<END
kept-tail committed another entry|another entry .* than others have|without the committed entry|differs
old-database the database is older than
lying-disk committed another entry|without the committed entry|voted for two|as replica . did
forgotten-requests the state of replica . .* differs
no-request-ids answered twice
forgotten-vote voted for two|as replica . did
local-reads began when
changed-entry another entry .* than others have
forged-acknowledgement committed another entry|without the committed entry|has committed entry
END
