#!/usr/bin/env bash
# That the tests notice: each mutant of kds-serial must fail processes.sh, and for what it is.
# ctest: serial timeout=400
. "$(dirname "$0")/../integration/lib.sh"
[ -z "$sanitized" ] || skip "as the test that it runs"

while read -r mutant words; do
	status=0
	KDS_TEST_SHORT=1 KDS_TEST_REPLICA=$tests/mutants/kds-serial-$mutant \
		bash "$source/tests/fault/processes.sh" "$bin" "$source" >"$work/$mutant" 2>&1 || status=$?
	found=$(grep -m 1 -A 1 '^FAILED' "$work/$mutant" || true)
	[ $status = 1 ] || fail "$mutant: status $status instead of 1"
	grep -Eq "$words" <<<"$found" || fail "$mutant was not noticed for '$words': $found"
	say "$mutant: ${found:0:200}"
done <<END
skip_commit the log goes from entry|the database is older|differs|is not what was written
early_answer got the same number|comes before|no order of the calls|before this replica differs from the others|differs from
reuse_serial got the same number
local_reads comes before|no order of the calls
unchecked_put no order of the calls
no_request_ids handed to nobody|no order of the calls
END
