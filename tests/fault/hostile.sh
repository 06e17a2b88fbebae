#!/usr/bin/env bash
# Hostile peers, each kind 500 times, against each port in turn, while good clients go on (hostile/): strangers, keys that cost,
# held slots, cut records, KeyUpdates, frames begun and answers not read, an insider's floods. KDS_TEST_PORT=ca: that port
# alone; KDS_TEST_KIND: that kind alone.
# ctest: serial timeout=1500
. "$(dirname "$0")/../integration/lib.sh"
count=${KDS_TEST_COUNT:-${sanitized:+40}}
count=${count:-500}
only=${KDS_TEST_PORT:-}
ulimit -n 4096 || skip "needs 4096 file descriptors"
cluster_up 3
make_node node1.example.com urn:example:prjA
make_node node2.example.com urn:example:prjA
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
# One of the infrastructure CA's: of_infrastructure NAME ROLE TEMPLATE...
of_infrastructure() {
	local name=$1 role=$2
	shift 2
	certificate "$name" "$cluster/admin/infra-ca.crt" "$cluster/admin/infra-ca.key" "$(<"$cluster/admin/passphrase")" \
		tls_www_client tls_www_server signing_key "cn = \"$name\"" "uri = \"kds://cluster.example.com/role/$role/$name\"" "$@"
}
of_infrastructure expired admin 'activation_date = "2024-01-01 00:00:00"' 'expiration_date = "2024-01-02 00:00:00"'
of_infrastructure ca9 ca 'expiration_days = 5'
of_infrastructure serial9 serial 'expiration_days = 5'
expect 0 certtool --generate-privkey --key-type ecdsa --curve secp256r1 --no-text --outfile "$work/stranger-ca.key"
printf '%s\n' 'cn = "cluster.example.com infrastructure CA"' ca cert_signing_key 'expiration_days = 10' >"$work/template"
expect 0 certtool --generate-self-signed --load-privkey "$work/stranger-ca.key" --template "$work/template" --no-text \
	--outfile "$work/stranger-ca.crt"
certificate stranger "$work/stranger-ca.crt" "$work/stranger-ca.key" "" tls_www_client signing_key 'cn = "admin"' \
	'uri = "kds://cluster.example.com/role/admin/admin"' 'expiration_days = 5'
# Below min_serial: a certificate that was good until the cluster said otherwise.
cp "$work/node1.example.com/node.crt" "$work/peers/below.crt"
cp "$work/node1.example.com/node.key" "$work/peers/below.key"
expect 0 kds-cli serial set-min all
for node in node1 node2; do
	sign "$work/$node.example.com/node" $node.example.com node
done
knows() { # ADDRESS: do the others there know the new minimum?
	! kds-cli --cert "$work/peers/below.crt" --key "$work/peers/below.key" --timeout 3 call Health.Check --address "$1"
}
for address in "$net.101:7410" "$net.102:7420"; do
	wait_for "$patience" "$address to refuse what is below min_serial" knows "$address"
done
openssl req -in "$work/node2.example.com/node.csr" -outform DER -out "$work/peers/request.der"
openssl req -new -sha1 -key "$work/node2.example.com/node.key" -subj /CN=node2.example.com -outform DER -out "$work/peers/sha1.der"

# The files that the program presents as NAME: present NAME FILES.
present() {
	cp "$1.crt" "$work/peers/$2.crt"
	cp "$1.key" "$work/peers/$2.key"
}
for i in 1 2 3 4 5 6 7; do
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$work/unused.key" -subj "/CN=nobody needs $i" \
		-days 10 2>>"$work/openssl.err" || fail "openssl req: $(<"$work/openssl.err")"
done >"$work/nobody-needs.crt"
aim() { # GOOD INSIDER
	present "$1" good
	present "$2" insider
	cp "$2.key" "$work/peers/chain.key"
	openssl x509 -in "$2.crt" | cat - "$work/nobody-needs.crt" >"$work/peers/chain.crt"
}
# OpenSSL's own client, with a chain of 8 in records of 512 bytes: openssl_fragments ADDRESS
openssl_fragments() {
	local version
	for version in -tls1_2 -tls1_3; do
		{ printf '\0SP\0\0\x30\0\0'; sleep 2; } | timeout 20 openssl s_client -connect "$1" $version \
			-quiet -no_ign_eof -max_send_frag 512 \
			-CAfile "$cluster/admin/infra-ca.crt" -cert "$work/peers/insider.crt" -key "$work/peers/insider.key" \
			-cert_chain "$work/nobody-needs.crt" >"$work/openssl.out" 2>"$work/openssl.err" || true
		if [ "$(od -An -tx1 "$work/openssl.out" | tr -d ' ')" != 0053500000310000 ]; then
			printf 'openssl s_client %s -max_send_frag 512: no answer: %s\n' $version "$(tail -n 1 "$work/openssl.err")" >&2
			failed+=" openssl$version:$1"
		fi
	done
}
attack() { # PORT NAME ADDRESS ASKS GOOD INSIDER [ARGUMENTS...]: as hostile/main.c says
	local port=$1 name=$2 address=$3 asks=$4
	[ -z "$only" ] || [ "$only" = "$port" ] || return 0
	say "$name's port $port, $address"
	aim "$5" "$6"
	"$tests/hostile" "$port" "${pid_of[$name]}" "$address" "$asks" "$net" "$count" "$cluster/admin/infra-ca.crt" "$work/peers" \
		${KDS_TEST_KIND:+"$KDS_TEST_KIND"} || failed+=" $name:$port"
	[ "$port" = peer ] || openssl_fragments "$address"
}
failed=

# kds-serial serves services and the administrator alone, the others any node.
admin=$cluster/admin/admin
attack serial serial1 "$net.1:7400" "$net.1:7400" "$admin" "$work/peers/ca9"
attack peer serial1 "$net.1:7401" "$net.1:7400" "$admin" "$work/peers/serial9"
attack ca ca1 "$net.101:7410" "$net.101:7410" "$work/node1.example.com/node" "$work/node2.example.com/node"
attack keydist keydist1 "$net.102:7420" "$net.102:7420" "$work/node1.example.com/node" "$work/node2.example.com/node"

if [ -z "$only" ] || [ "$only" = idle ]; then
	stop serial1
	sed -i '/^idle-timeout/d' "$(config_of serial1)"
	printf 'idle-timeout = 3\n' >>"$(config_of serial1)"
	start serial1
	wait_healthy
	attack idle serial1 "$net.1:7400" "$net.1:7400" "$admin" "$work/peers/ca9"
fi

# Silent connections on the leader's peer port: a replica that restarts takes part all the same, as a write shows for which the
# majority needs it.
writes() { kds-cli --timeout 3 config set site.rejoined yes; }
rejoin() { # HELD
	local leader other follower name began
	leader=$(leader_id)
	follower=serial$((leader % 3 + 1))
	other=serial$(((leader + 1) % 3 + 1))
	say "$1 silent connections on the peer ports of serial$leader and $follower, which restarts; then $other stops"
	for name in "serial$leader" "$follower"; do
		"$tests/hostile" hold peer "${pid_of[$name]}" "$net.${name#serial}:7401" "$net.${name#serial}:7400" "$net" "$1" \
			"$cluster/admin/infra-ca.crt" "$work/peers" &
		pid_of[hold-$name]=$!
	done
	sleep 1
	stop "$follower"
	start "$follower"
	stop "$other"
	began=$SECONDS
	until writes >"$work/writes" 2>&1 || [ $((SECONDS - began)) -ge "$patience" ]; do
		sleep 0.2
	done
	writes >"$work/writes" 2>&1 || failed+=" rejoin:$1"
	say "a write took $((SECONDS - began)) s"
	for name in "serial$leader" "$follower"; do
		kill "${pid_of[hold-$name]}"
		reap "hold-$name" || fail "hold ended with an error"
	done
	start "$other"
	wait_healthy
}
if [ -z "$only" ] || [ "$only" = rejoin ]; then
	aim "$admin" "$work/peers/serial9"
	rejoin 64
	rejoin 300
fi
[ -z "$failed" ] || fail "did not stand it:$failed"

say "and the cluster still works"
wait_healthy
sign "$work/node1.example.com/node" node1.example.com node
