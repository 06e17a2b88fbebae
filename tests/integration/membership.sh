#!/usr/bin/env bash
# A cluster grows from one replica to five while it works, shrinks, replaces a dead one; what would cost the quorum is refused;
# a replica whose data was lost cannot come back under its id.
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
votes() { is "$1" votes true; }
voters() { kds-cli --json cluster members | python3 -c 'import json, sys; print(sum(m.get("votes", False) for m in json.load(sys.stdin)["members"]))'; }
leader() {
	local i
	for i in 1 2 3 4 5; do
		if is "serial$i" leader true; then
			printf 'serial%d' "$i"
			return
		fi
	done
	return 1
}

# Others find the replicas by their configuration files: addresses NUMBER...
addresses() {
	local list=() i file
	for i in "$@"; do
		list+=("\"$net.$i:7400\"")
	done
	for file in admin/cli.conf ca1/kds-ca.conf keydist1/kds-keydist.conf; do
		sed -i "s/^serial-addresses = .*/serial-addresses = {$(IFS=,; printf '%s' "${list[*]}")}/" "$cluster/$file"
	done
}

# It ends by itself, saying why: ended NAME REGEX
ended() {
	local name=$1 status=0 i
	for ((i = 0; i < patience * 10; i++)); do
		alive "$name" || break
		sleep 0.1
	done
	alive "$name" && fail "$name runs on"
	wait "${pid_of[$name]}" || status=$?
	unset "pid_of[$name]"
	assert_eq "exit status of $name" 4 "$status"
	assert_match "log of $name" "$2" "$(<"$work/$name.log")"
}

say "one replica"
cluster_init 1
addresses 1 2 3 4 5
# shellcheck disable=SC2046
start $(all_names)
wait_for "$patience" "a leader" has_leader
wait_for "$patience" "the first replica to be entered" is serial1 votes true
expect 0 kds-cli node add node0.example.com

# All the while somebody writes.
(
	i=0
	while [ ! -e "$work/enough" ]; do
		i=$((i + 1))
		kds-cli --timeout 10 node add "load$i.example.com" >>"$work/load.out" 2>>"$work/load.err" && echo "load$i" >>"$work/loaded"
		sleep 0.05
	done
) &
load=$!
also_clean_up() { touch "$work/enough"; }

say "two nodes: both are needed, and the last that votes cannot go"
expect 5 kds-cli cluster remove serial1
assert_match "the reason" "last replica that votes" "$err"
add serial2 "$net.2"
wait_for "$patience" "serial2 to vote" votes serial2
kill9 serial2
wait_for "$patience" "the lost quorum to show" bash -c "kds-cli cluster view | grep -q 'Quorum: NO'"
expect 4 kds-cli --timeout 2 node add lost.example.com
start serial2
wait_for "$patience" "serial2 to be back" bash -c "kds-cli cluster view | grep -q 'Quorum: yes'"

say "five nodes"
add serial3 "$net.3"
wait_for "$patience" "serial3 to vote" votes serial3
add serial4 "$net.4" --standby
add serial5 "$net.5"
wait_for "$patience" "serial5 to vote" votes serial5
assert_eq "voters" 4 "$(voters)"
expect 0 kds-cli cluster promote serial4 --wait "$patience"
assert_eq "voters" 5 "$(voters)"
expect 5 kds-cli cluster add serial5 --address "$net.6" --out "$work/refused"
[ ! -e "$work/refused" ] || fail "a refused addition left its directory"
assert_match "the reason" "is a replica already" "$err"
expect 5 kds-cli cluster add serial6 --address "$net.5"
assert_match "the reason" "has the address" "$err"
expect 5 kds-cli cluster remove serial9
expect 3 kds-cli --cert "$cluster/ca1/service.crt" --key "$cluster/ca1/service.key" cluster remove serial5

say "leadership goes where it is told to"
expect 0 kds-cli cluster transfer serial4
wait_for "$patience" "serial4 to lead" is serial4 leader true
expect 5 kds-cli cluster transfer serial9

say "a dead one is replaced; what would cost the quorum is refused"
kill9 serial1
kill9 serial2
wait_for "$patience" "serial1 to be missed" is serial1 reachable false
wait_for "$patience" "serial2 to be missed" is serial2 reachable false
expect 5 kds-cli cluster remove serial5
assert_match "the reason" "it would cost the quorum" "$err"
expect 0 kds-cli cluster remove serial1 --wait "$patience"
assert_eq "voters" 4 "$(voters)"
rm -rf "$cluster/serial1"
add serial1 "$net.1"
wait_for "$patience" "the new serial1 to vote" votes serial1
assert_eq "its id was never used" 6 "$(member serial1 id)"

say "one that was removed learns it when it comes back, and ends"
expect 0 kds-cli cluster remove serial2 --wait "$patience"
start serial2
ended serial2 "this replica was removed"

say "one that lost its data is refused under its id"
kill9 serial3
rm -rf "$cluster/serial3/data"
start serial3
ended serial3 "took part with another data directory"
assert_eq "it still has its vote" true "$(member serial3 votes)"
expect 0 kds-cli cluster remove serial3 --wait "$patience"
rm -rf "$cluster/serial3"
add serial3 "$net.3"
wait_for "$patience" "the new serial3 to vote" votes serial3

say "the leader leaves"
was=$(leader)
expect 0 kds-cli cluster remove "$was" --wait "$patience"
ended "$was" "this replica was removed"
assert_eq "voters" 3 "$(voters)"

say "what was acknowledged is there"
touch "$work/enough"
wait "$load"
n=$(wc -l <"$work/loaded")
[ "$n" -gt 20 ] || fail "only $n writes succeeded"
kds-cli --json node list >"$work/nodes"
while read -r name; do
	grep -q "\"$name.example.com\"" "$work/nodes" || fail "$name is gone"
done <"$work/loaded"
printf '%d writes were acknowledged\n' "$n"
