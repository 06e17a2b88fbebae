#!/usr/bin/env bash
# A bit flips in the database of a replica that is down: it finds out, stops for good, and the others go on.
# ctest: timeout=240
. "$(dirname "$0")/../integration/lib.sh"

# Changes the state of a replica behind its back: change NAME SQL.
change() {
	python3 - "$cluster/$1/data/replica.db" "$2" <<-'END'
		import sqlite3, sys
		db = sqlite3.connect(sys.argv[1])
		n = db.execute(sys.argv[2]).rowcount
		db.commit()
		sys.exit(n != 1)
	END
}

ended() { ! kill -0 "${pid_of[$1]}" 2>/dev/null; }

# It must end by itself with status 4, and not start again: stops_for_good NAME WORDS.
stops_for_good() {
	local status=0
	wait_for "$patience" "$1 to stop" ended "$1"
	wait "${pid_of[$1]}" || status=$?
	unset "pid_of[$1]"
	assert_eq "exit status of $1" 4 "$status"
	assert_match "the log of $1" "$2" "$(<"$work/$1.log")"
	expect 1 kds-serial --config "$(config_of "$1")"
	assert_match "the second start of $1" "condemned: this replica stopped for good" "$out$err"
	expect 1 kds-serial --config "$(config_of "$1")" --check-config
}

cluster_up 3
make_node node1.example.com urn:example:prjA
sign "$work/node1.example.com/node" node1.example.com node
followers=()
for i in 1 2 3; do [ "$i" = "$(leader_id)" ] || followers+=("serial$i"); done

say "all three agree"
agreed() {
	kds-cli --json cluster view | python3 -c '
import json, sys
view = json.load(sys.stdin)
told = [{d["index"]: d["digest"] for d in m["status"].get("digests", [])} for m in view["members"]]
common = set.intersection(*(set(t) for t in told))
sys.exit(not common or any(t[i] != told[0][i] for t in told for i in common) or view["alarms"]
    or any("scannedMs" not in m["status"] for m in view["members"]))'
}
wait_for "$patience" "equal digests at an equal index, and a whole scan on each" agreed

say "a bit flips in a record of ${followers[0]}"
stop "${followers[0]}"
change "${followers[0]}" "UPDATE issued SET not_after = not_after + 1 WHERE serial = (SELECT max(serial) FROM issued)"
start "${followers[0]}"
stops_for_good "${followers[0]}" "the state on the disk is not what was written"
sign "$work/node1.example.com/node" node1.example.com node
