#!/usr/bin/env bash
# 2,000 idle TLS connections to each daemon: it answers on; what one of them costs.
# ctest: serial timeout=600
. "$(dirname "$0")/../integration/lib.sh"
count=${KDS_TEST_COUNT:-${sanitized:+500}}
count=${count:-2000}
descriptors=$((2 * count + 2000)) # nodes get three quarters of a daemon's places, and there are no more of these than descriptors
ulimit -n $descriptors || skip "needs $descriptors file descriptors"
cluster_init 3
for name in $(all_names); do # of one identity, more than it is given by default
	printf 'max-connections-per-node = %d\nmax-connections-per-service = %d\n' $((2 * count)) $((2 * count)) >>"$(config_of "$name")"
done
# shellcheck disable=SC2046
start $(all_names)
create_ca
wait_healthy
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
