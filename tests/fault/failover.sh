#!/usr/bin/env bash
# Leaders go under load: a rolling restart fails no request that its client repeats once; after kill -9 and SIGSTOP every
# request has its effect once and keeps its first answer; a leader that wakes answers with nothing old.
# ctest: serial timeout=600
. "$(dirname "$0")/../integration/lib.sh"
rounds=${KDS_TEST_COUNT:-${sanitized:+3}}
rounds=${rounds:-6}
cluster_init 3
start serial1 serial2 serial3

# A majority agrees, and nobody is missing.
is_whole() {
	kds-cli --json --timeout 3 cluster view | python3 -c '
import json, sys
view = json.load(sys.stdin)
sys.exit(not (view.get("quorum") and sum(m.get("reachable", False) for m in view["members"]) == 3))'
}
wait_whole() { wait_for 60 "the replicas to agree" is_whole; }
leader() { printf 'serial%s' "$(leader_id)"; }

load_start() { # MODE: see failover_load.c
	coproc load { exec "$tests/failover_load" "$net.1:7400,$net.2:7400,$net.3:7400" cluster.example.com key.example.com \
		"$cluster"/ca1/{service.crt,service.key,infra-ca.crt} 32 "$1" 2>>"$work/load.log"; }
	load_pid=$load_PID load_in=${load[1]} load_out=${load[0]}
}
tell() { # COMMAND: its answer is in $told
	echo "$1" >&"$load_in"
	read -r told <&"$load_out" || fail "the load ended at '$1'"
}
value() { sed -n "s/.*\b$1=\(-\?[0-9]*\).*/\1/p" <<<"$told"; }
load_finish() {
	tell finish
	wait "$load_pid" || fail "the load's status"
	say "$told"
	[ "$(value answered)" -gt 100 ] || fail "hardly a request was answered"
	assert_eq "answers that differ from the first" 0 "$(value differing)"
	assert_eq "serials beside one for each request" 0 "$(value extra)"
}

wait_whole
say "a rolling restart"
load_start once
tell "run 1000"
for name in serial1 serial2 serial3 "$(leader)"; do
	wait_whole
	stop "$name"
	tell "run 300"
	start "$name"
	wait_whole
	tell "mark" # each client has an answer to a request that began after this
done
load_finish
assert_eq "requests that failed when their client repeated them once" 0 "$(value failed_again)"

say "kill -9 and SIGSTOP of the leader, $rounds rounds"
load_start channel
for ((round = 1; round <= rounds; round++)); do
	tell "run 500"
	wait_whole
	victim=$(leader)
	if [ $((round % 2)) -eq 1 ]; then
		tell "signal ${pid_of[$victim]} 9"
		wait "${pid_of[$victim]}" 2>/dev/null || true
		unset "pid_of[$victim]"
		start "$victim"
	else
		tell "signal ${pid_of[$victim]} 19" # until every client has gone to another leader
		expect 0 kds-cli --json --timeout 20 call Serial.Show '{}' --address "$net.$((${victim#serial} % 3 + 1)):7400"
		seen=$(json lastSerial <<<"$out")
		kds-cli --json --timeout 20 call Serial.Show '{}' --address "$net.${victim#serial}:7400" >"$work/woken" 2>"$work/woken.err" &
		reader=$!
		sleep 0.3 # its request waits where the sleeper will find it first
		kill -CONT "${pid_of[$victim]}"
		if wait "$reader"; then
			[ "$(json lastSerial <"$work/woken")" -ge "$seen" ] || fail "$victim woke and answered of the past, before $seen: $(<"$work/woken")"
		fi
	fi
done
load_finish
assert_eq "requests that failed although their channel repeated them" 0 "$(value failed_once)"
