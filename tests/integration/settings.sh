#!/usr/bin/env bash
# A setting reaches the daemons while they run: certificates live as long as it says, masterKeys come as often.
# ctest: timeout=240
# shellcheck disable=SC2154 # $out and $err are set by expect
. "$(dirname "$0")/lib.sh"
cluster_up 3
make_node node1.example.com urn:example:prjA
n1=$work/node1.example.com

# Seconds that a certificate of a profile lives when its request names none.
lifetime() {
	sign "$work/lifetime" node1.example.com "$1"
	echo $(($(date -d "$(openssl x509 -in "$work/lifetime.crt" -noout -enddate | cut -d= -f2)" +%s) - \
		$(date -d "$(openssl x509 -in "$work/lifetime.crt" -noout -startdate | cut -d= -f2)" +%s) - 300))
}
lives() { # PROFILE SECONDS
	local seconds
	seconds=$(lifetime "$1")
	echo "$1 lives $seconds s"
	[ "$seconds" -eq "$2" ]
}
cp "$n1/node.csr" "$work/lifetime.csr"

say "the defaults"
lives node $((72 * 3600)) || fail "$(lives node 0)"
pids="${pid_of[ca1]} ${pid_of[keydist1]}"

say "kds-ca follows"
expect 0 kds-cli config set certificate.node.lifetime 2h
wait_for "$patience" "certificates of nodes to live 2 h" lives node 7200
lives kds-client $((72 * 3600)) || fail "$(lives kds-client 0)"
expect 0 kds-cli config set certificate.max-lifetime 1h
wait_for "$patience" "certificates to live 1 h at most" lives kds-client 3600
expect 2 kds-cli cert sign "$n1/node.csr" --node node1.example.com --lifetime 2
assert_match "the error" "at most 3600 s" "$err"
expect 0 kds-cli config unset certificate.max-lifetime
wait_for "$patience" "certificates of nodes to live 2 h again" lives node 7200

say "kds-keydist follows"
masterkeys() { kds-cli --json config list masterkey/ | grep -c '"publishedMs"'; }
assert_eq "masterKeys" 1 "$(masterkeys)"
more_masterkeys() { [ "$(masterkeys)" -gt 1 ]; }
expect 0 kds-cli config set masterkey.publish-ahead 0s
expect 0 kds-cli config set masterkey.lifespan 2h
expect 0 kds-cli config set masterkey.interval 1m
wait_for $((patience + 60)) "a masterKey a minute" more_masterkeys

say "who asks too often is told when to come back"
ask_often() { # twenty at once; true when one was refused for it
	local i jobs=()
	rm -f "$work"/often.*
	for i in $(seq 20); do
		kds-cli --cert "$n1/node.crt" --key "$n1/node.key" cert sign "$n1/node.csr" >/dev/null 2>"$work/often.$i" &
		jobs+=($!)
	done
	for i in "${jobs[@]}"; do wait "$i" || true; done
	grep -qE 'more often than 1 times a second; try again in [0-9]+ ms' "$work"/often.*
}
expect 0 kds-cli config set limit.sign-rate 1
wait_for "$patience" "kds-ca to refuse a node that asks too often" ask_often
expect 0 kds-cli cert sign "$n1/node.csr" --node node1.example.com # an administrator is not meant
expect 0 kds-cli config set limit.sign-rate off
not_refused() { ! ask_often; }
wait_for "$patience" "kds-ca to refuse nobody" not_refused

say "what is wrong changes nothing"
expect 2 kds-cli config set limit.sign-rate 0
assert_match "the error" "1 to 1000000, or off" "$err"
expect 2 kds-cli config set certificate.node.lifetime 168h
assert_match "the error" "5m to 167h" "$err"
expect 2 kds-cli config set certificate.node.lifetime two
expect 2 kds-cli config set certificate.nodes.lifetime 2h
lives node 7200 || fail "$(lives node 0)"

say "nobody was started again"
assert_eq "the daemons" "$pids" "${pid_of[ca1]} ${pid_of[keydist1]}"
alive ca1 || fail "kds-ca ended"
alive keydist1 || fail "kds-keydist ended"

say "a daemon that starts knows them from the start"
stop ca1 keydist1
start ca1 keydist1
wait_healthy
lives node 7200 || fail "$(lives node 0)"
