#!/usr/bin/env bash
# 2,000 idle TLS connections to each daemon: it answers on; what one of them costs.
# ctest: serial timeout=600
. "$(dirname "$0")/../integration/lib.sh"
count=${KDS_TEST_COUNT:-${sanitized:+500}}
count=${count:-2000}
ulimit -n $((count + 500)) || skip "needs $((count + 500)) file descriptors"
cluster_up 3
make_node node1.example.com urn:example:prjA
# kds-serial serves services and the administrator alone, the others any node.
while read -r name address identity; do
	say "$name at $address"
	"$tests/idle" "${pid_of[$name]}" "$address" "$net" "$count" "$cluster/admin/infra-ca.crt" \
		"$work/$identity.crt" "$work/$identity.key" || fail "$name did not stand it"
done <<END
serial1 $net.1:7400 cluster/admin/admin
ca1 $net.101:7410 node1.example.com/node
keydist1 $net.102:7420 node1.example.com/node
END
wait_healthy
