#!/usr/bin/env bash
# A node that is removed: kds-ca and kds-keydist refuse its certificates at once, and still when they start without replicas.
. "$(dirname "$0")/lib.sh"
cluster_up 1
make_node node1.example.com urn:example:prjA
make_node node2.example.com urn:example:prjA

# May the node speak with a daemon? passes NODE CERTIFICATE ADDRESS
passes() {
	kds-cli -q --cert "$work/$1.example.com/$2.crt" --key "$work/$1.example.com/$2.key" --timeout 3 call Health.Check --address "$3" >/dev/null 2>&1
}
refused() { ! passes "$@"; }
everywhere() { # COMMAND NODE
	local certificate
	for certificate in node kds; do
		"$1" "$2" $certificate "$net.101:7410" && "$1" "$2" $certificate "$net.102:7420" || return 1
	done
}

everywhere passes node1
expect 0 as_client node1.example.com key create urn:example:prjA

say "it is removed"
expect 0 kds-cli node remove node1.example.com
wait_for "$patience" "all to refuse node1" everywhere refused node1
expect 3 as_client node1.example.com key create urn:example:prjA
assert_match "what the node is told" "(access|denied|not in the cluster)" "$err"
assert_match "what the log says" "node1.example.com.* is not in the cluster" "$(<"$work/keydist1.log")"
expect 1 kds-cli cert verify "$work/node1.example.com/node.crt"
assert_match "the verdict" "not in the cluster" "$out"
expect 0 kds-cli cert verify "$work/node2.example.com/kds.crt"
everywhere passes node2
expect 0 as_client node2.example.com key create urn:example:prjA

say "without replicas"
stop keydist1 serial1
start keydist1
wait_for "$patience" "kds-keydist to serve from its copy" passes node2 kds "$net.102:7420"
expect 0 as_client node2.example.com key create urn:example:prjA
refused node1 kds "$net.102:7420"

say "it is a node again"
start serial1
wait_healthy
expect 0 kds-cli node add node1.example.com --group urn:example:prjA
wait_for "$patience" "all to let node1 in" everywhere passes node1
expect 0 as_client node1.example.com key create urn:example:prjA
