#!/usr/bin/env bash
# The leader is cut off from the others, in both directions and in one, under a recorded load that still reaches all
# three: what the clients saw is linearizable, and the replicas end up alike.
# ctest: serial timeout=300
. "$(dirname "$0")/lib.sh"
replicas_up
load_start

# away COMMAND NAME DIRECTION...: the relay does COMMAND between NAME and the others until a new leader has answered.
away() {
	local command=$1 id=${2#serial} direction other before
	before=$(term)
	shift 2
	for other in 1 2 3; do
		[ "$other" != "$id" ] || continue
		for direction in "$@"; do
			case $direction in
			out) network "$command" "$id" "$other" ;;
			in) network "$command" "$other" "$id" ;;
			esac
		done
	done
	sleep $((3 * election))
	progress 100
	network heal
	progress 200
	wait_quorum
	[ "$(term)" -gt "$before" ] || fail "nobody else was elected: the leader was not cut off"
}

for round in 1 2; do
	say "the leader's connections are reset, and new ones refused ($round)"
	away cut "$(leader)" out
	say "nothing comes from or to the leader ($round)"
	away freeze "$(leader)" in out
	say "nothing comes from the leader ($round)"
	away freeze "$(leader)" out
	say "nothing comes to the leader ($round)"
	away freeze "$(leader)" in
done
say "nothing comes from or to a follower"
victim=$(follower)
for other in 1 2 3; do
	[ "serial$other" != "$victim" ] || continue
	network freeze "${victim#serial}" $other
	network freeze $other "${victim#serial}"
done
sleep $((3 * election))
progress 100
network heal
progress 200

load_stop
assert_linearizable
assert_same_state
