#!/usr/bin/env bash
# Clients that are none of ours: NNG's own req0 over tls+tcp:// against each service; a Python program with nothing but the
# generated protobuf classes.
. "$(dirname "$0")/lib.sh"
cluster_up 3
make_node node1.example.com urn:example:prjA
n1=$work/node1.example.com
ca=$cluster/admin/infra-ca.crt

say "NNG's req0 against each service"
expect 0 "$tests/nng_client" "$net.1:7400" "$ca" "$cluster/admin/admin.crt" "$cluster/admin/admin.key" Serial.Show
assert_match "kds-serial's answer" "^OK [1-9][0-9]* bytes" "$out"
expect 0 "$tests/nng_client" "$net.101:7410" "$ca" "$n1/node.crt" "$n1/node.key" Ca.Bundle
assert_match "kds-ca's answer" "^OK [1-9][0-9]* bytes" "$out"
expect 0 "$tests/nng_client" "$net.102:7420" "$ca" "$n1/kds.crt" "$n1/kds.key" KeyDist.List
assert_match "kds-keydist's answer" "^OK [1-9][0-9]* bytes" "$out"
expect 0 "$tests/nng_client" "$net.2:7400" "$ca" "$cluster/admin/admin.crt" "$cluster/admin/admin.key" Health.Echo
assert_match "100 echoes from a replica" "^OK" "$out"
for address in "$net.101:7410" "$net.102:7420"; do
	expect 0 "$tests/nng_client" "$address" "$ca" "$n1/node.crt" "$n1/node.key" Health.Echo
	assert_match "100 echoes from $address" "^OK" "$out"
done
expect 1 "$tests/nng_client" "$net.102:7420" "$ca" "$n1/node.crt" "$n1/node.key" KeyDist.List
assert_match "a node's certificate is no key distribution client's" "PERMISSION_DENIED" "$out"
