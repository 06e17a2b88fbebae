#!/usr/bin/env bash
# kds-cli without a server: init, request, show, verify, match, describe, help of every level, exit statuses, error lines.
# shellcheck disable=SC2154 # $out and $err are set by expect
. "$(dirname "$0")/lib.sh"

# A failure is one line on standard error, names the command, and leaves standard output empty: refused STATUS REGEX COMMAND...
refused() {
	local status=$1 regex=$2
	shift 2
	expect "$status" "$@"
	assert_eq "standard output of '$*'" "" "$out"
	assert_eq "lines on standard error of '$*'" 1 "$(wc -l <"$work/err")"
	assert_match "the error of '$*'" "^kds-cli: .*$regex" "$err"
}

init() { kds-cli init --cluster cluster.example.com --kds-name key.example.com "$@"; }

say "help of every level, to standard output"
expect 0 kds-cli --help
nouns=$(sed -n 's/^  \([a-z]*\) .*/\1/p' <<<"$out" | grep -v -e '^kds$')
assert_match "the nouns in --help" "init.*cluster.*cert.*describe" "$(tr '\n' ' ' <<<"$nouns")"
for noun in $nouns; do
	expect 0 kds-cli "$noun" --help
	assert_match "help of $noun" "Usage: kds-cli .*$noun.*Examples:.*kds-cli $noun" "$out"
	assert_eq "standard error of $noun --help" "" "$err"
	verbs=$(sed -n '/^Examples/q; s/^  \([a-z][a-z-]*\) .*/\1/p' <<<"$out")
	case $noun in init | call | describe) verbs= ;; *) assert_ne "verbs of $noun" "" "$verbs" ;; esac
	for verb in $verbs; do
		expect 0 kds-cli "$noun" "$verb" --help
		assert_match "help of $noun $verb" "Usage: kds-cli .*$noun $verb.*Examples:.*kds-cli .*$noun $verb" "$out"
	done
done
expect 0 kds-cli --version
assert_match "the version" '^kds-cli [0-9]+\.[0-9]+' "$out"

say "usage errors"
refused 2 "see kds-cli --help" kds-cli
refused 2 "there is no 'bogus'.*--help" kds-cli bogus
refused 2 "there is no 'cert bogus'" kds-cli cert bogus
refused 2 "say what to do with cert" kds-cli cert
refused 2 "cert show: .*give FILE" kds-cli cert show
refused 2 "argument too many: 'b'" kds-cli cert show a b
refused 2 "unknown option --bogus" kds-cli cert show --bogus a
refused 2 "no option --replace here" kds-cli cert show --replace a
refused 2 "timeout" kds-cli --timeout soon serial show
refused 2 "no configuration.*--config" env HOME="$work" kds-cli serial show
refused 2 "nowhere.conf" kds-cli --config "$work/nowhere.conf" serial show
refused 2 "SetMin|serial number, latest or all" kds-cli serial set-min some
refused 2 "Service.Method" kds-cli call Bogus
refused 2 "has no method" kds-cli call Serial.Bogus
refused 2 "not JSON" kds-cli call Serial.Show '{'
refused 2 "no field" kds-cli call Serial.Show '{"bogus": 1}'
refused 2 "ident" kds-cli key restore '!!'

say "init"
expect 0 init --dir "$cluster" --replicas "$net.1,$net.2,b.example.com:8400" --ca-host "$net.101" --keydist-host '[::1]:7999'
assert_match "what comes next" "kds-serial --config .*/serial3/kds-serial.conf.*cluster view" "$out"
assert_eq "standard error of init" "" "$err"
assert_eq "the folders" "admin ca1 keydist1 serial1 serial2 serial3" "$(cd "$cluster" && echo *)"
for file in serial3/{kds-serial.conf,service.crt,service.key,infra-ca.crt,data} ca1/{kds-ca.conf,ca.seal,service.key} \
	keydist1/{kds-keydist.conf,keydist.seal,data,service.crt} admin/{cli.conf,admin.crt,admin.key,infra-ca.key,passphrase}; do
	[ -e "$cluster/$file" ] || fail "init made no $file"
done
assert_eq "directories that others may enter" "" "$(find "$cluster" -type d ! -perm 700)"
assert_eq "secrets that others may read" "" \
	"$(find "$cluster" -type f \( -name '*.key' -o -name '*.seal' -o -name passphrase \) ! -perm 600)"
assert_match "the replicas as serial1 has them" "$net.1:7401.*$net.2:7401.*b.example.com:8401" \
	"$(cat "$cluster/serial1/kds-serial.conf")"
assert_match "the addresses in cli.conf" '"\[::1\]:7999"' "$(cat "$cluster/admin/cli.conf")"
ids=$(sed -n 's/^cluster-id = //p' "$cluster"/*/kds-*.conf | sort -u)
assert_match "one cluster id" '^"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"$' "$ids"

say "what OpenSSL says of init's certificates"
infra=$cluster/admin/infra-ca.crt
for crt in "$cluster"/*/service.crt; do
	expect 0 openssl verify -x509_strict -purpose sslserver -CAfile "$infra" "$crt"
	expect 0 openssl verify -x509_strict -purpose sslclient -CAfile "$infra" "$crt"
done
expect 0 openssl verify -x509_strict -purpose sslclient -CAfile "$infra" "$cluster/admin/admin.crt"
expect 2 openssl verify -purpose sslserver -CAfile "$infra" "$cluster/admin/admin.crt"
expect 0 openssl x509 -in "$cluster/serial3/service.crt" -noout -ext subjectAltName -subject
assert_match "names of serial3" "DNS:key.example.com, DNS:b.example.com, URI:kds://cluster.example.com/role/serial/serial3" "$out"
assert_match "its subject" "CN ?= ?key.example.com" "$out"
expect 0 openssl x509 -in "$infra" -noout -ext basicConstraints
assert_match "the path length of the infrastructure CA" "CA:TRUE, pathlen:2" "$out"
expect 0 openssl pkcs8 -in "$cluster/admin/infra-ca.key" -passin "file:$cluster/admin/passphrase"
expect 1 openssl pkcs8 -in "$cluster/admin/infra-ca.key" -passin pass:wrong

say "init refuses"
before=$(find "$cluster" -type f -exec sha256sum {} + | sort)
refused 5 "not empty" init --dir "$cluster"
assert_eq "the first cluster's files" "$before" "$(find "$cluster" -type f -exec sha256sum {} + | sort)"
refused 2 "give --cluster" kds-cli init --kds-name k --dir "$work/x"
refused 2 "give --dir" init
refused 2 "cluster" kds-cli init --cluster 'bad name' --kds-name k --dir "$work/x"
refused 2 "replicas" init --dir "$work/x" --replicas 'a,b"c'
refused 2 "more than 7" init --dir "$work/x" --replicas 1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4,1.1.1.5,1.1.1.6,1.1.1.7,1.1.1.8
refused 2 "both use" init --dir "$work/x" --replicas 1.1.1.1:7400,1.1.1.1:7401
refused 2 "beside" init --dir "$work/no/such/x"
refused 2 "passphrase" init --dir "$work/x" --passphrase-file "$work/none"
printf 'short\n' >"$work/passphrase"
chmod 644 "$work/passphrase"
refused 2 "chmod 600" init --dir "$work/x" --passphrase-file "$work/passphrase"
refused 2 "empty" init --dir "$work/x" --passphrase-file - </dev/null
assert_eq "what the refused ones left" "" "$(find "$work" -maxdepth 1 -name 'x*')"

say "init for hosts whose own address may change"
refused 2 "without a port" init --dir "$work/x" --listen 0.0.0.0:7400
refused 2 "without a port" init --dir "$work/x" --listen localhost
expect 0 init --dir "$work/any" --replicas serial1,serial2 --ca-host ca1 --keydist-host keydist1 --listen 0.0.0.0
conf=$(cat "$work/any/serial1/kds-serial.conf")
assert_match "where it listens, and is found" 'listen = "0.0.0.0:7400".*rpc-address = "serial1:7400".*peer-listen = "0.0.0.0:7401"' "$conf"
assert_match "where its peers are found" 'address = "serial2:7401"' "$conf"
assert_match "where kds-ca listens" 'listen = "0.0.0.0:7410".*serial-addresses = ."serial1:7400", "serial2:7400"' \
	"$(cat "$work/any/ca1/kds-ca.conf")"
for kind in serial ca keydist; do
	expect 0 "kds-$kind" --config "$work/any/${kind}1/kds-$kind.conf" --check-config
done

say "init with a passphrase of one's own, into an empty directory"
mkdir "$work/own"
chmod 600 "$work/passphrase"
expect 0 init --dir "$work/own/" --passphrase-file "$work/passphrase" --json
assert_eq "the directory in JSON" key.example.com "$(json kdsName <<<"$out")"
[ ! -e "$work/own/admin/passphrase" ] || fail "init kept a passphrase that is not its own"
expect 0 kds-cli cert match "$work/own/admin/infra-ca.crt" "$work/own/admin/infra-ca.key" --passphrase-file "$work/passphrase"
expect 0 init --dir "$work/piped" --passphrase-file - <"$work/passphrase"
expect 0 openssl pkcs8 -in "$work/piped/admin/infra-ca.key" -passin pass:short
expect 0 init --dir "$work/two" --replicas 1.1.1.1,1.1.1.2
assert_match "the note on two replicas" "2 replicas" "$err"
expect 0 init -q --dir "$work/four" --replicas 1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4 --ca-host 1.1.1.1,1.1.1.2
assert_eq "standard error with -q" "" "$err"
assert_eq "sealing keys of two kds-ca" 1 "$(sha256sum "$work"/four/ca[12]/ca.seal | cut -d ' ' -f 1 | sort -u | wc -l)"

say "cert request"
cd "$work"
expect 0 kds-cli cert request --name node1.example.com --out node1.csr
assert_match "what it made" "node1.example.com.key" "$err"
assert_eq "mode of the key" 600 "$(stat -c %a node1.example.com.key)"
expect 0 openssl req -in node1.csr -noout -verify -subject
assert_match "the request's subject" "CN ?= ?node1.example.com" "$out"
key=$(sha256sum <node1.example.com.key)
expect 0 kds-cli cert request --name node1.example.com
assert_match "a request on standard output" "BEGIN NEW CERTIFICATE REQUEST" "$out"
assert_eq "the key, used again" "$key" "$(sha256sum <node1.example.com.key)"
refused 2 "give --name" kds-cli cert request
refused 2 "lower case|DNS name|--name" kds-cli cert request --name 'Node 1'
chmod 644 node1.example.com.key
refused 2 "chmod 600" kds-cli cert request --name node1.example.com

say "cert show, match, verify"
expect 0 kds-cli cert show "$cluster/serial1/service.crt"
assert_match "service.crt" "subject: +key.example.com.*address: +$net.1.*URI: +kds://cluster.example.com/role/serial/serial1" "$out"
expect 0 kds-cli --json cert show "$cluster/serial1/service.crt"
assert_eq "its fingerprint" "$(openssl x509 -in "$cluster/serial1/service.crt" -noout -fingerprint -sha256 |
	sed 's/.*=//; s/://g' | tr A-F a-f)" "$(json fingerprint <<<"$out")"
cat "$cluster/ca1/service.crt" "$infra" >chain.pem
expect 0 kds-cli --json cert show - <chain.pem
assert_eq "certificates in a chain" 2 "$(grep -c '"fingerprint"' <<<"$out")"
openssl x509 -in "$infra" -outform DER -out infra.der
expect 0 kds-cli cert show infra.der
refused 2 "no certificate" kds-cli cert show node1.csr
refused 2 "No such file" kds-cli cert show missing.crt
refused 2 "no certificate" kds-cli cert show /dev/null

expect 0 kds-cli cert match "$cluster/ca1/service.crt" "$cluster/ca1/service.key"
expect 1 kds-cli cert match "$cluster/ca1/service.crt" "$cluster/admin/admin.key"
assert_match "the answer" "^no" "$out"
expect 1 kds-cli --json cert match "$cluster/ca1/service.crt" "$cluster/admin/admin.key"
assert_eq "the answer in JSON" false "$(json match <<<"$out")"
refused 2 "encrypted" kds-cli cert match "$infra" "$cluster/admin/infra-ca.key"
refused 2 "does not open" kds-cli cert match "$infra" "$cluster/admin/infra-ca.key" --passphrase-file passphrase

expect 0 kds-cli cert verify --ca "$infra" "$cluster/ca1/service.crt"
expect 0 kds-cli cert verify --ca "$infra" chain.pem
expect 1 kds-cli cert verify --ca "$work/own/admin/infra-ca.crt" "$cluster/ca1/service.crt"
assert_match "why not" "issuer" "$out"
expect 1 kds-cli --json cert verify --ca "$work/own/admin/infra-ca.crt" "$cluster/ca1/service.crt"
assert_eq "accepted, in JSON" false "$(json accepted <<<"$out")"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout old.key -subj /CN=old -days 1 -set_serial 7 \
	-addext basicConstraints=critical,CA:true -out old.crt 2>/dev/null
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout leaf.key -subj /CN=leaf -out leaf.csr 2>/dev/null
openssl x509 -req -in leaf.csr -CA old.crt -CAkey old.key -set_serial 41 -days 1 -out leaf.crt 2>/dev/null
expect 0 kds-cli cert verify --ca old.crt --min-serial 41 leaf.crt
expect 1 kds-cli cert verify --ca old.crt --min-serial 42 leaf.crt
assert_match "why not" "41 is below the minimum 42" "$out"

say "cert needs-renewal"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout renew.key -subj /CN=r -days 3 -out renew.crt 2>/dev/null
expect 1 kds-cli cert needs-renewal renew.crt
expect 1 kds-cli cert needs-renewal renew.crt --before 71
expect 0 kds-cli cert needs-renewal renew.crt --before 73
expect 0 kds-cli --json cert needs-renewal renew.crt --before 73
assert_eq "due, in JSON" true "$(json needsRenewal <<<"$out")"
refused 2 "before" kds-cli cert needs-renewal renew.crt --before 0

say "service issue"
export KDS_CONFIG=$cluster/admin/cli.conf
expect 0 kds-cli service issue serial serial1 "$net.1" --key "$cluster/serial1/service.key" --out serial1.crt
expect 0 kds-cli cert match serial1.crt "$cluster/serial1/service.key"
names() { openssl x509 -in "$1" -noout -subject -ext subjectAltName,extendedKeyUsage; }
assert_eq "the names of serial1, issued again" "$(names "$cluster/serial1/service.crt")" "$(names serial1.crt)"
expect 0 openssl verify -x509_strict -CAfile "$infra" serial1.crt
expect 0 kds-cli service issue admin alice --out alice.crt
assert_eq "mode of the new key" 600 "$(stat -c %a alice.key)"
expect 0 kds-cli cert show alice.crt
assert_match "the new administrator" "subject: +alice.*TLS client.*role/admin/alice" "$out"
mv "$cluster/admin/passphrase" passphrase.saved
refused 2 "empty" kds-cli service issue admin bob --out bob.crt </dev/null
refused 2 "does not open" kds-cli service issue admin bob --out bob.crt --passphrase-file passphrase
expect 0 kds-cli service issue admin bob --out bob.crt --passphrase-file passphrase.saved
rm "$cluster/admin/admin.crt" # an administrator whose own certificate is gone issues another
expect 0 kds-cli service issue admin admin --key "$cluster/admin/admin.key" --out "$cluster/admin/admin.crt" \
	--passphrase-file passphrase.saved
refused 2 "not the key of" kds-cli service issue admin eve --ca-key "$work/own/admin/infra-ca.key" --passphrase-file passphrase
refused 2 "no role" kds-cli service issue node n1 "$net.9"
refused 2 "HOST" kds-cli service issue ca ca2
refused 2 "no HOST" kds-cli service issue admin eve "$net.9"
refused 2 "name has" kds-cli service issue admin 'eve/../x'
[ ! -e eve.key ] || fail "a refused issue left a key"

say "describe"
expect 0 kds-cli describe
assert_match "methods" "Serial.Show.*Ca.Sign.*KeyDist.Create" "$out"
expect 0 kds-cli describe Ca.Sign
assert_match "fields" "csr +bytes.*lifetime_s +uint32" "$out"
expect 0 kds-cli describe Profile
assert_match "values" "PROFILE_KDS_CLIENT +1" "$out"
expect 0 kds-cli --json describe
assert_eq "services in JSON" 7 "$(json services <<<"$out" | grep -o servedBy | wc -l)"
refused 2 "no service" kds-cli describe Bogus

say "what is no backup; its name is not obeyed by a terminal"
printf junk >"$work"/$'b\e[31m'
refused 1 'backup verify: .*b\?\[31m is not a backup' kds-cli backup verify "$work"/$'b\e[31m'

say "nobody there: exit status 4, and which address"
sed -i "s/b.example.com:8400/$net.3:7400/; s/\[::1\]:7999/$net.102:7420/" "$KDS_CONFIG"
refused 4 "$net.*refused" kds-cli serial show --timeout 1
refused 4 "$net.101:7410" kds-cli ca list --timeout 1
refused 4 "none of 3 replicas" kds-cli cluster view --timeout 1
refused 4 "$net.77:7400" kds-cli call Health.Check --address "$net.77"
expect 1 kds-cli --json cluster health --timeout 1
assert_eq "healthy" false "$(json healthy <<<"$out")"
refused 2 "together" kds-cli --cert "$cluster/admin/admin.crt" serial show
refused 2 "belong" kds-cli --cert "$cluster/admin/admin.crt" --key "$cluster/ca1/service.key" serial show

say "standard output that cannot be written"
[ ! -e /dev/full ] || refused 6 "standard output" sh -c 'exec kds-cli describe >/dev/full'
