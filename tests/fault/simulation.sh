#!/usr/bin/env bash
# The replicated log on simulated disks, network and clocks, from many seeds; and that its checks bite.
# More of it: <build dir>/tests/simulation --first 1000 --seeds 10000
# ctest: timeout=1800
. "$(dirname "$0")/../integration/lib.sh"
simulation=$tests/simulation

"$simulation" --seeds "${KDS_TEST_SEEDS:-2000}" --steps 2000 || fail "a seed"
"$simulation" --first 1000001 --seeds $((${KDS_TEST_SEEDS:-2000} / 20 + 1)) --steps 12000 || fail "a long seed"

# The same seed is the same story.
for i in 1 2; do
	"$simulation" --seed 7 --steps 2000 --verbose >"$work/story$i" 2>"$work/simulation.log" || fail "seed 7"
done
cmp "$work/story1" "$work/story2" || fail "seed 7 went another way the second time"

# Each mutant must be noticed, and for what it is.
while read -r mutant words; do
	status=0
	"$simulation" --mutant "$mutant" >"$work/mutant" 2>&1 || status=$?
	[ $status = 1 ] || fail "mutant $mutant: status $status instead of 1"
	grep -Eq "^seed .*($words)" "$work/mutant" || fail "mutant $mutant was not noticed for '$words': $(<"$work/mutant")"
	say "mutant $mutant: $(grep -Em1 '^seed' "$work/mutant")"
done <<END
kept-tail committed another entry|another entry .* than others have|without the committed entry|the log goes from entry|the database is older than
old-database the database is older than
lying-disk committed another entry|without the committed entry|voted for two|leads term .* as replica
forgotten-requests the state of replica . .* differs
no-request-ids answered twice
forgotten-vote voted for two|leads term .* as replica
local-reads began when
old-confirmations began when
changed-entry another entry .* than others have
forged-acknowledgement committed another entry|without the committed entry|has committed entry
changed-part the state of replica . .* differs|a replica gave up
moved-snapshot the state of replica . .* differs|a replica gave up|another entry|has compacted entry
own-clock never showed more
ignored-error the database is older than|is damaged|malformed|without the committed entry
wiped-replica voted for two|leads term .* as replica|committed another entry|without the committed entry
no-compare was overlooked|was set upon
changed-row not what was written
changed-digest the digest of replica . .* differs
END
