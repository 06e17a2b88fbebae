#!/usr/bin/env bash
# Silent connections that hold every place they can get keep no replica and no client out; frames that are begun and never
# end take bounded memory, from the one who began them alone, and for a bounded time.
# ctest: serial timeout=300
. "$(dirname "$0")/../integration/lib.sh"
count=${KDS_TEST_COUNT:-300}
ulimit -n 8192 || skip "needs 8192 file descriptors"
cluster_up 3
make_node node1.example.com urn:example:prjA
make_node node2.example.com urn:example:prjA
n1=$work/node1.example.com n2=$work/node2.example.com

holders=()
hold() { # ADDRESS: until release
	local n=${#holders[@]}
	"$tests/slots" silent "$1" "$count" >"$work/held.$n" &
	holders+=($!)
	wait_for 30 "silent connections to $1" grep -q ready "$work/held.$n"
}
release() {
	local pid
	for pid in "${holders[@]}"; do
		kill "$pid" || fail "silent connections were not held to the end"
		wait "$pid" 2>/dev/null || true
	done
	holders=()
}

say "a replica comes back while strangers hold the others' peer ports"
stop serial3
hold "$net.1:7401"
hold "$net.2:7401"
start serial3
wait_for 20 "serial3 among the others" kds-cli cluster health

say "clients are served while strangers hold every RPC port"
for address in "$net.1:7400" "$net.2:7400" "$net.3:7400" "$net.101:7410" "$net.102:7420"; do
	hold "$address"
done
for ((i = 0; i < 5; i++)); do
	sign "$n1/node" node1.example.com node
	expect 0 as_client node1.example.com --json key create urn:example:prjA
	expect 0 kds-cli cluster health
done
release

say "frames that never end"
bound=$((110 << 10)) # a node's share is 96 MiB
[ -z "$sanitized" ] || bound=0
"$tests/slots" frames "${pid_of[ca1]}" "$net.101:7410" "$count" 127 $bound "$cluster/admin/infra-ca.crt" "$n1/node.crt" "$n1/node.key" &
holder=$!
"$tests/slots" frames "${pid_of[serial1]}" "$net.1:7400" "$count" 1024 $((bound + bound / 2)) "$cluster/admin/infra-ca.crt" \
	"$cluster/admin/admin.crt" "$cluster/admin/admin.key" &
other=$!
for ((i = 0; i < 10; i++)); do
	sign "$n2/node" node2.example.com node
	sleep 0.5
done
wait $holder || fail "kds-ca did not stand it"
wait $other || fail "kds-serial did not stand it"
wait_healthy
