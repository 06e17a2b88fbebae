#!/usr/bin/env bash
# kill -9 and SIGSTOP of the leader, of a follower, of all, under a recorded load: what the clients saw is linearizable,
# and the replicas end up alike.
# ctest: serial timeout=300
. "$(dirname "$0")/lib.sh"
replicas_up
load_start

say "kill -9 of a follower"
victim=$(follower)
kill9 "$victim"
progress 300
start_replica "$victim"
wait_quorum

for round in 1 2; do
	say "kill -9 of the leader ($round)"
	victim=$(leader)
	kill9 "$victim"
	progress 300
	start_replica "$victim"
	wait_quorum
done

say "kill -9 of all"
for name in serial1 serial2 serial3; do
	kill9 $name
done
start_replica serial1 serial2 serial3
wait_quorum
progress 300

if [ -n "${KDS_TEST_SHORT:-}" ]; then
	load_stop
	assert_linearizable
	assert_same_state
	exit
fi

# stopped NAME...: for longer than an election takes.
stopped() {
	local name
	for name in "$@"; do
		kill -STOP "${pid_of[$name]}" || fail "$name has ended: $(grep ' error ' "$work/$name.log" | tail -n 1)"
	done
	sleep $((3 * election))
	for name in "$@"; do
		kill -CONT "${pid_of[$name]}"
	done
	progress 300
	wait_quorum
}
for round in 1 2; do
	say "SIGSTOP of the leader ($round)"
	stopped "$(leader)"
done
say "SIGSTOP of a follower"
stopped "$(follower)"
say "SIGSTOP of all"
stopped serial1 serial2 serial3

load_stop
assert_linearizable
assert_same_state
