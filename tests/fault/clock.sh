#!/usr/bin/env bash
# Wall clocks an hour ahead and an hour behind, of the leader, of a follower, and jumping while they run, under a recorded
# load: elections and promises do not depend on them.
# ctest: serial timeout=300
. "$(dirname "$0")/lib.sh"
replicas_up
load_start 128 6000 # many calls are under way at any moment
hour=3600

# jump NAME SECONDS...: its clock is so much ahead, one after another, without anybody else being elected.
jump() {
	local name=$1 seconds before
	shift
	before=$(term)
	for seconds in "$@"; do
		say "$name: its clock is $seconds s ahead"
		hurt "$name" ok "$seconds"
		progress 300
	done
	wait_quorum
	assert_eq "the term" "$before" "$(term)"
}
jump "$(leader)" $hour -$hour 0
jump "$(follower)" $hour -$hour 0

# Another leads, whose clock is two hours behind the last one's: the state's time does not go back.
first=$(leader)
say "$first is an hour ahead, and killed; the others are an hour behind"
for name in serial1 serial2 serial3; do
	hurt $name ok -$hour
done
hurt "$first" ok $hour
progress 100
kill9 "$first"
progress 300
hurt "$first" ok 0
start_replica "$first"
wait_quorum
for name in serial1 serial2 serial3; do
	hurt $name ok 0
done
progress 100

# A request that the old leader may have carried out is repeated at one whose clock is an hour ahead.
for round in 1 2 3; do
	first=$(leader)
	say "$first is killed; the others are an hour ahead ($round)"
	for name in serial1 serial2 serial3; do
		[ $name = "$first" ] || hurt $name ok $((round * hour))
	done
	kill9 "$first"
	progress 100
	hurt "$first" ok $((round * hour))
	start_replica "$first"
	wait_quorum
done

load_stop
assert_linearizable
assert_same_state
