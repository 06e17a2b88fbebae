#!/usr/bin/env bash
# Disks that refuse and disks that lie, under a recorded load: the replica stops itself and says why, the others go on; it
# comes back when the disk is well, or is refused when what it may have promised is lost. What the clients saw is
# linearizable, and the replicas end up alike.
# ctest: serial timeout=300
. "$(dirname "$0")/lib.sh"
replicas_up
load_start

# A disk that refuses: refuses NAME DISK REGEX.
refuses() {
	say "$1: its disk is $2"
	hurt "$1" "$2"
	assert_stopped "$1" "$3"
	progress 100
	hurt "$1" ok
	start_replica "$1"
	wait_quorum
}
cannot_write='stopping at once, because a replica that cannot write must not vote'
for disk in full bad unsynced; do
	refuses "$(leader)" $disk "$cannot_write"
	refuses "$(follower)" $disk "$cannot_write"
done

say "all disks are full, and well again"
for name in serial1 serial2 serial3; do
	hurt $name full
done
for name in serial1 serial2 serial3; do
	assert_stopped $name "$cannot_write"
done
for name in serial1 serial2 serial3; do
	hurt $name ok
done
start_replica serial1 serial2 serial3
wait_quorum
progress 100

# lies WHAT REGEX: a follower's disk gives back what was not written. It is refused with REGEX, now and when asked to check,
# and comes back with what was there before.
lies() {
	local victim data
	victim=$(follower)
	data=$cluster/$victim/data
	case $1 in
	*-wal) kill9 "$victim" ;;
	*) stop "$victim" ;;
	esac
	cp -a "$data" "$work/well"
	say "$victim: $(python3 "$source/tests/fault/damage.py" "$data" "$1")"
	expect 1 kds-serial --config "$(config_of "$victim")" --check-config
	assert_match "what the check of $victim says" "$2" "$err"
	start_replica "$victim"
	assert_refused "$victim" "$2"
	progress 100
	rm -rf "$data"
	mv "$work/well" "$data"
	start_replica "$victim"
	wait_quorum
}
older="the database is older than the file 'acknowledged'; put the right one back, or bring this replica back under a new id"
lies tear-wal "$older"
lies zero-wal "$older"
lies lose-wal "$older"
lies flip-entry 'entry [0-9]* of the log is damaged; check the disk, and bring this replica back under a new id'

load_stop
assert_linearizable
assert_same_state
