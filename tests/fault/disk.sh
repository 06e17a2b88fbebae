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

# may_lie WHAT: the same, where it depends on what the page is for whether anything is lost, and when that is noticed. The
# replica may be refused, or end itself when it comes upon it, or when it has read its whole state again; if it goes on
# behind that, it must end up like the others.
may_lie() {
	local victim data status=0
	victim=$(follower)
	data=$cluster/$victim/data
	stop "$victim"
	cp -a "$data" "$work/well"
	say "$victim: $(python3 "$source/tests/fault/damage.py" "$data" "$1")"
	start_replica "$victim"
	ended_or_scanned() { ! alive "$victim" || scanned "${victim#serial}"; }
	wait_for 60 "$victim to end or to have read its state" ended_or_scanned
	if alive "$victim"; then
		say "$victim goes on"
	else
		wait "${pid_of[$victim]}" || status=$?
		unset "pid_of[$victim]"
		[[ $status =~ ^[134]$ ]] || fail "$victim ended with status $status"
		say "$victim ended: $(grep ' error ' "$work/$victim.log" | tail -n 1)"
		rm -rf "$data"
		cp -a "$work/well" "$data"
		start_replica "$victim"
	fi
	rm -rf "$work/well"
	wait_quorum
}
# Has replica ID read its whole state since it started? It is asked itself: others may not have heard of it since.
scanned() {
	kds-cli --json --timeout 3 call Replicas.View '{}' --address "$net.$1:7400" | python3 -c '
import json, sys
[m] = [m for m in json.load(sys.stdin)["members"] if m["id"] == sys.argv[1]]
sys.exit("scannedMs" not in m["status"])' "$1"
}
may_lie tear-page
may_lie flip-pointer

load_stop
assert_linearizable
assert_same_state
