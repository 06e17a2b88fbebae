#!/usr/bin/env bash
# The cluster's main job on real processes: certificates with committed serials, group keys, min_serial, a leader lost.
# ctest: timeout=240
. "$(dirname "$0")/lib.sh"
cluster_up 3

say "certificates: what is in them, as openssl and certtool see it"
make_node node1.example.com 'urn:example:prjA#10s' urn:example:prjB
make_node node2.example.com 'urn:example:prjA#10s'
n1=$work/node1.example.com n2=$work/node2.example.com

for certificate in "$n1"/node.crt "$n1"/kds.crt "$n2"/node.crt "$n2"/kds.crt; do
	expect 0 openssl verify -x509_strict -CAfile "$n1/ca.pem" "$certificate"
	expect 0 certtool --verify --load-ca-certificate "$n1/ca.pem" --infile "$certificate"
	seconds=$(($(date -d "$(openssl x509 -in "$certificate" -noout -enddate | cut -d= -f2)" +%s) - $(date +%s)))
	[ $seconds -gt 3600 ] || fail "$certificate lives only $seconds s"
	[ $seconds -lt $((168 * 3600)) ] || fail "$certificate lives $seconds s, 168 h or more"
done
expect 0 openssl verify -CAfile "$n1/ca.pem" -purpose sslserver "$n1/node.crt"
expect 0 openssl verify -CAfile "$n1/ca.pem" -purpose sslclient "$n1/node.crt"
expect 0 openssl verify -CAfile "$n1/ca.pem" -purpose sslclient "$n1/kds.crt"
expect 2 openssl verify -CAfile "$n1/ca.pem" -purpose sslserver "$n1/kds.crt"

expect 0 kds-cli ca bundle
printf '%s\n' "$out" >"$work/bundle.pem"
expect 0 openssl x509 -in "$work/bundle.pem" -noout -ext basicConstraints
assert_match "the path length of the cluster's CA" "CA:TRUE, pathlen:0" "$out"
text=$(openssl x509 -in "$n1/node.crt" -noout -text)
assert_match "the version" "Version: 3" "$text"
assert_match "the node's common name" "Subject: CN ?= ?node1.example.com" "$text"
assert_match "the node's DNS name" "DNS:node1.example.com" "$text"
assert_match "key usage" "Key Usage: critical[[:space:]]+Digital Signature" "$text"
assert_match "extended key usage" "TLS Web Server Authentication, TLS Web Client Authentication" "$text"
assert_match "subject key id" "X509v3 Subject Key Identifier" "$text"
assert_match "authority key id" "X509v3 Authority Key Identifier" "$text"
assert_no_match "no CA" "CA:TRUE" "$text"
text=$(openssl x509 -in "$n1/kds.crt" -noout -text)
assert_match "the client's common name" "Subject: CN ?= ?node1.example.com" "$text"
assert_match "the KDSName" "DNS:key.example.com" "$text"
assert_match "group A with its precision" "URI:urn:example:prjA#10s" "$text"
assert_match "group B" "URI:urn:example:prjB([^#]|$)" "$text"
assert_match "TLS client" "TLS Web Client Authentication" "$text"
assert_no_match "no TLS server" "TLS Web Server Authentication" "$text"
assert_no_match "node2 is not of group B" "prjB" "$(openssl x509 -in "$n2/kds.crt" -noout -text)"

say "a request for a CA certificate gives none"
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=node1.example.com -keyout "$work/evil.key" \
	-addext basicConstraints=critical,CA:TRUE -addext 'subjectAltName=DNS:evil.example.com,URI:kds://cluster.example.com/role/admin/x' \
	-out "$work/evil.csr" 2>/dev/null
sign "$work/evil" node1.example.com node
text=$(openssl x509 -in "$work/evil.crt" -noout -text)
assert_no_match "nothing but the key is taken from a request" "CA:TRUE|evil.example.com|role/admin" "$text"

say "serials: each differs, and each has its record with the same fingerprint"
serials=$(for c in "$n1"/*.crt "$n2"/*.crt "$work/evil.crt"; do serial_of "$c"; echo; done)
assert_eq "serials that occur twice" "" "$(sort <<<"$serials" | uniq -d)"
expect 0 kds-cli --json cert list
for certificate in "$n1"/node.crt "$n2"/kds.crt; do
	fingerprint=$(openssl x509 -in "$certificate" -outform DER | openssl dgst -sha256 -binary | base64)
	python3 - "$(serial_of "$certificate")" "$fingerprint" <<-'END' "$work/out" || fail "no record of $certificate"
		import json, sys
		serial, fingerprint, path = sys.argv[1:]
		found = [c for c in json.load(open(path))["certificates"] if c["serial"] == serial]
		sys.exit(0 if len(found) == 1 and found[0]["fingerprint"] == fingerprint else 1)
	END
done

say "group keys: the receiver gets the sender's from the ident, and only for its groups"
expect 0 as_client node1.example.com --json key create urn:example:prjA
ident=$(json ident <<<"$out") key=$(json key <<<"$out")
assert_eq "bytes of a key" 32 "$(base64 -d <<<"$key" | wc -c)"
expect 0 as_client node2.example.com --json key restore "$ident"
assert_eq "node2's key" "$key" "$(json key <<<"$out")"
expect 0 as_client node1.example.com --json key create urn:example:prjB
ident_b=$(json ident <<<"$out")
assert_ne "another group's key" "$key" "$(json key <<<"$out")"
expect 3 as_client node2.example.com key restore "$ident_b"
assert_match "which group was missing" "urn:example:prjB" "$err"
expect 3 as_client node2.example.com key create urn:example:prjB
expect 3 kds-cli key create urn:example:prjA
expect 3 kds-cli --cert "$n1/node.crt" --key "$n1/node.key" key create urn:example:prjA

say "an ident that was tampered with is no key, or another"
tampered=$(python3 -c '
import base64, sys
b = bytearray(base64.b64decode(sys.argv[1])); b[4] ^= 1
print(base64.b64encode(b).decode())' "$ident")
status=0
as_client node2.example.com --json key restore "$tampered" >"$work/tampered" 2>&1 || status=$?
[ $status -ne 0 ] || assert_ne "a tampered ident's key" "$key" "$(json key <"$work/tampered")"

say "who may not: a node signs for itself alone, and administers nothing"
as_node1=(kds-cli --cert "$n1/node.crt" --key "$n1/node.key")
expect 0 "${as_node1[@]}" cert sign "$n1/node.csr"
expect 3 "${as_node1[@]}" cert sign "$n1/node.csr" --node node2.example.com
expect 3 "${as_node1[@]}" serial set-min all
expect 3 "${as_node1[@]}" node add node3.example.com
expect 5 kds-cli cert sign "$n1/node.csr" --node unknown.example.com --profile node
expect 5 kds-cli node add node1.example.com

say "min_serial: what is below is refused, by every daemon, and cannot come back"
expect 0 kds-cli --json serial show
before=$(json lastSerial <<<"$out")
cp "$n1/kds.crt" "$work/old.crt"
expect 0 kds-cli serial set-min all
expect 0 kds-cli --json serial show
minimum=$(json minSerial <<<"$out")
[ "$minimum" -gt "$before" ] || fail "min_serial is $minimum after 'all', serials up to $before were handed out"
refused() {
	local status=0
	"$@" >/dev/null 2>&1 || status=$?
	[ $status -eq 3 ]
}
old=(kds-cli --cert "$work/old.crt" --key "$n1/kds.key" --timeout 3)
wait_for "$patience" "kds-keydist to refuse the old certificate" refused "${old[@]}" key create urn:example:prjA
wait_for "$patience" "kds-ca to refuse it" refused "${old[@]}" ca bundle
wait_for "$patience" "kds-serial to refuse it" refused "${old[@]}" serial show
expect 5 kds-cli serial set-min 1
expect 0 kds-cli --json serial show
assert_eq "min_serial after an attempt to lower it" "$minimum" "$(json minSerial <<<"$out")"

for name in node1.example.com node2.example.com; do
	sign "$work/$name/node" $name node
	sign "$work/$name/kds" $name kds-client
	[ "$(serial_of "$work/$name/kds.crt")" -ge "$minimum" ] || fail "$name's new certificate is below min_serial"
done
wait_for "$patience" "the new certificate to be accepted" as_client node2.example.com key restore "$ident"
assert_eq "the key that the old ident still names" "$key" "$(as_client node2.example.com --json key restore "$ident" | json key)"

say "the leader is killed: the next certificate comes from the others, with a new serial"
highest=$(kds-cli --json serial show | json highestIssued)
leader=serial$(leader_id)
kill9 "$leader"
expect 0 kds-cli --timeout 30 cert sign "$n1/node.csr" --node node1.example.com --profile node
printf '%s\n' "$out" >"$work/next.crt"
[ "$(serial_of "$work/next.crt")" -gt "$highest" ] || fail "serial $(serial_of "$work/next.crt") is not above $highest"
new_leader=serial$(leader_id)
assert_ne "the new leader" "$leader" "$new_leader"
start "$leader"
wait_healthy
