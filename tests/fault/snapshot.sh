#!/usr/bin/env bash
# A replica is away while more is committed than the log keeps: it comes back through a snapshot, also when it is killed while one
# is on its way, and then holds what the others hold. Their logs stay bounded meanwhile, and they go on committing.
# ctest: timeout=600
. "$(dirname "$0")/../integration/lib.sh"
load=$(dirname "$bin")/bench/bench-load
[ -x "$load" ] || skip "bench-load is not built"
tail=256
records=${sanitized:+20000}
records=${records:-100000}

cluster_init 3
for i in 1 2 3; do
	printf 'log-tail = %d\n' "$tail" >>"$(config_of "serial$i")"
done
start serial1 serial2 serial3
wait_for "$patience" "a leader" has_leader

# Of a replica, as it sees itself: status ID FIELD.
status() {
	kds-cli --json --timeout 3 call Replicas.View '{}' --address "$net.$1:7400" | python3 -c '
import json, sys
for m in json.load(sys.stdin)["members"]:
    if m["id"] == sys.argv[1]:
        print(m.get("status", {}).get(sys.argv[2], 0))' "$1" "$2"
}
is_log_bounded() { # ID ENTRIES
	[ $(($(status "$1" lastIndex) - $(status "$1" firstIndex))) -le "$2" ]
}

# Through the replicas that stay: run_load OPERATION SECONDS [BATCH TOTAL].
run_load() {
	local operation=$1
	shift
	"$load" "$operation" "$net.1:7400,$net.2:7400" cluster.example.com key.example.com "$cluster/ca1/service.crt" \
		"$cluster/ca1/service.key" "$cluster/ca1/infra-ca.crt" 16 "$@" >"$work/load.out" 2>"$work/load.log" ||
		fail "$(<"$work/load.log")"
	say "$operation: $(<"$work/load.out")"
}

say "one is away"
stop serial3
wait_for "$patience" "a leader" has_leader
run_load record 300 20 "$records"
for i in 1 2; do
	wait_for "$patience" "the log of serial$i to be compacted" is_log_bounded $i $((tail * 9))
done
[ "$(status 1 firstIndex)" -gt 2 ] || fail "nothing was compacted"

say "killed while a snapshot is on its way"
receives() { [ "$(status 3 receivesPercent)" -gt 0 ]; }
kills=0
for ((round = 0; round < 8 && kills < 3; round++)); do
	start serial3
	end=$((SECONDS + patience))
	while [ $SECONDS -lt $end ] && ! grep -q "was installed" "$work/serial3.log"; do
		if receives 2>/dev/null; then
			kill9 serial3
			kills=$((kills + 1))
			break
		fi
	done
	! grep -q "was installed" "$work/serial3.log" || break
done
say "killed $kills times"
[ "$kills" -gt 0 ] || fail "no snapshot was seen on its way"

say "it comes back, while the others go on"
[ -n "${pid_of[serial3]:-}" ] || start serial3
run_load allocate 3
caught_up() { [ "$(status 3 appliedIndex)" = "$(status 1 appliedIndex)" ]; }
wait_for 120 "serial3 to catch up" caught_up
grep -q "a snapshot of replica . was installed" "$work/serial3.log" || fail "no snapshot was installed"
expect 0 kds-cli --json call Serial.Show '{}' --address "$net.1:7400"
shown=$(json lastSerial <<<"$out"),$(json issued <<<"$out")
expect 0 kds-cli --json call Serial.Show '{"local": true}' --address "$net.3:7400"
assert_eq "what serial3 itself says" "$shown" "$(json lastSerial <<<"$out"),$(json issued <<<"$out")"

say "it counts as any other: with it alone there is a majority"
stop serial1
wait_for "$patience" "a leader" kds-cli --timeout 3 node add node1.example.com
start serial1
# By ids.
are_same() {
	local i index
	index=$(status "$1" appliedIndex)
	for i in "$@"; do
		[ "$(status "$i" appliedIndex)" = "$index" ] && [ "$(status "$i" lastIndex)" = "$index" ] || return 1
	done
}
wait_for "$patience" "all to apply the same" are_same 1 2 3

say "a new replica, which has no log at all, begins with the state"
expect 0 kds-cli cluster add serial4 --address "$net.4" --out "$cluster/serial4" --standby --wait 0
start serial4
wait_for 60 "all to apply the same" are_same 1 2 3 4
grep -q "a snapshot of replica . was installed" "$work/serial4.log" || fail "no snapshot was installed"
stop serial4
start serial4 # with nothing but what the snapshot brought, and a few entries
wait_for 60 "all to apply the same" are_same 1 2 3 4

stop serial1 serial2 serial3 serial4
python3 "$source/tests/fault/same_state.py" "$cluster"/serial{1,2,3,4}/data >"$work/same" || fail "$(<"$work/same")"
say "$(<"$work/same")"
