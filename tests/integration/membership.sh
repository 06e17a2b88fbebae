#!/usr/bin/env bash
# A cluster grows from one replica to three and shrinks again, while it works.
# ctest: timeout=300
. "$(dirname "$0")/lib.sh"

# The directory of a new replica, and the replica running: add NAME HOST [OPTIONS...]
add() {
	local name=$1 host=$2
	shift 2
	expect 0 kds-cli cluster add "$name" --address "$host" --out "$cluster/$name" --wait 0 "$@"
	start "$name"
}

# FIELD of a member: member NAME FIELD
member() {
	kds-cli --json cluster members | python3 -c '
import json, sys
for m in json.load(sys.stdin).get("members", []):
    if m["replica"]["name"] == sys.argv[1]:
        print(json.dumps(m.get(sys.argv[2], m["replica"].get(sys.argv[2]))).strip("\""))' "$1" "$2"
}
is() { [ "$(member "$1" "$2")" = "$3" ]; }
voters() { kds-cli --json cluster members | python3 -c 'import json, sys; print(sum(m.get("votes", False) for m in json.load(sys.stdin)["members"]))'; }

say "one replica"
cluster_up 1
expect 0 kds-cli node add node1.example.com

say "two more join and vote"
add serial2 "$net.2"
wait_for "$patience" "serial2 to vote" is serial2 votes true
add serial3 "$net.3"
wait_for "$patience" "serial3 to vote" is serial3 votes true
assert_eq "voters" 3 "$(voters)"
expect 0 kds-cli node add node2.example.com
expect 0 kds-cli call Config.Get '{"key": "node/node1.example.com", "local": true}' --address "$net.3:7400"
# Others find the replicas by their configuration files.
for file in admin/cli.conf ca1/kds-ca.conf keydist1/kds-keydist.conf; do
	sed -i "s/^serial-addresses = .*/serial-addresses = {\"$net.1:7400\", \"$net.2:7400\", \"$net.3:7400\"}/" "$cluster/$file"
done

say "the first one leaves"
expect 0 kds-cli cluster remove serial1 --wait "$patience"
stop serial1
assert_eq "voters" 2 "$(voters)"
