#!/usr/bin/env bash
# Clients that are none of ours: NNG's own req0 over tls+tcp:// against each service; a Python program with nothing but the
# generated protobuf classes. What it gets is what libkds and kds-cli get.
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

say "the examples: Python makes a key, libkds and kds-cli restore it; and the other way round"
# The distribution's Python has the distribution's protobuf.
python=(/usr/bin/python3 "$source/clients/examples/kds_client.py" --cert "$n1/kds.crt" --key "$n1/kds.key" --ca "$ca"
	--address "$net.102:7420")
library=("$(dirname "$bin")/examples/group_key")
hex() { base64 -d | od -An -v -tx1 | tr -d ' \n'; }
field_of() { awk -v name="$1" '$1 == name { print $2 }' <<<"$out"; }

expect 0 "${python[@]}" health
assert_match "its health" "serving: true" "$out"
expect 0 "${python[@]}" create urn:example:prjA
ident=$(field_of ident:) key=$(field_of key:)
expect 0 "${library[@]}" restore "$(hex <<<"$ident")" "$n1/kds.crt" "$n1/kds.key"
assert_eq "the key that libkds restored" "$(hex <<<"$key")" "$(field_of key)"
assert_eq "the key that kds-cli restored" "$key" "$(as_client node1.example.com --json key restore "$ident" | json key)"
expect 0 "${library[@]}" create urn:example:prjA "$n1/kds.crt" "$n1/kds.key"
ident=$(python3 -c 'import base64, sys; print(base64.b64encode(bytes.fromhex(sys.argv[1])).decode())' "$(field_of ident)")
key=$(field_of key)
expect 0 "${python[@]}" restore "$ident"
assert_eq "the key that Python restored" "$key" "$(hex <<<"$(field_of key:)")"
expect 1 "${python[@]}" create urn:example:prjB
assert_match "a group that the certificate does not name" "PERMISSION_DENIED.*urn:example:prjB" "$err"
