#!/usr/bin/env bash
# Twelve kinds of hostile peers, 500 times each, against each daemon in turn, while good clients go on (hostile.c).
# ctest: serial timeout=1500
. "$(dirname "$0")/../integration/lib.sh"
count=${KDS_TEST_COUNT:-${sanitized:+60}}
count=${count:-500}
cluster_up 3
make_node node1.example.com urn:example:prjA
mkdir "$work/peers"

# Files NAME.key and NAME.crt with what certtool makes of a template: certificate NAME CA_CRT CA_KEY PASSPHRASE TEMPLATE...
certificate() {
	local files=$work/peers/$1 ca=$2 key=$3 passphrase=$4
	shift 4
	printf '%s\n' "$@" >"$work/template"
	expect 0 certtool --generate-privkey --key-type ecdsa --curve secp256r1 --no-text --outfile "$files.key"
	expect 0 certtool --generate-certificate --load-privkey "$files.key" --load-ca-certificate "$ca" --load-ca-privkey "$key" \
		--password "$passphrase" --template "$work/template" --no-text --outfile "$files.crt"
}
client=(tls_www_client signing_key 'cn = "admin"' 'uri = "kds://cluster.example.com/role/admin/admin"')
certificate expired "$cluster/admin/infra-ca.crt" "$cluster/admin/infra-ca.key" "$(<"$cluster/admin/passphrase")" \
	"${client[@]}" 'activation_date = "2024-01-01 00:00:00"' 'expiration_date = "2024-01-02 00:00:00"'
expect 0 certtool --generate-privkey --key-type ecdsa --curve secp256r1 --no-text --outfile "$work/stranger-ca.key"
printf '%s\n' 'cn = "cluster.example.com infrastructure CA"' ca cert_signing_key 'expiration_days = 10' >"$work/template"
expect 0 certtool --generate-self-signed --load-privkey "$work/stranger-ca.key" --template "$work/template" --no-text \
	--outfile "$work/stranger-ca.crt"
certificate stranger "$work/stranger-ca.crt" "$work/stranger-ca.key" "" "${client[@]}" 'expiration_days = 5'
# Below min_serial: a certificate that was good until the cluster said otherwise.
cp "$work/node1.example.com/node.crt" "$work/peers/below.crt"
cp "$work/node1.example.com/node.key" "$work/peers/below.key"
expect 0 kds-cli serial set-min all
sign "$work/node1.example.com/node" node1.example.com node
knows() { # ADDRESS: do the others there know the new minimum?
	! kds-cli --cert "$work/peers/below.crt" --key "$work/peers/below.key" --timeout 3 call Health.Check --address "$1"
}
for address in "$net.101:7410" "$net.102:7420"; do
	wait_for "$patience" "$address to refuse what is below min_serial" knows "$address"
done

# kds-serial serves services and the administrator alone, the others any node.
while read -r name address identity; do
	say "$name at $address"
	cp "$work/$identity.crt" "$work/peers/good.crt"
	cp "$work/$identity.key" "$work/peers/good.key"
	"$tests/hostile" "${pid_of[$name]}" "$address" "$net" "$count" "$cluster/admin/infra-ca.crt" "$work/peers" ||
		fail "$name did not stand it"
done <<END
serial1 $net.1:7400 cluster/admin/admin
ca1 $net.101:7410 node1.example.com/node
keydist1 $net.102:7420 node1.example.com/node
END

say "and the cluster still works"
wait_healthy
sign "$work/node1.example.com/node" node1.example.com node
