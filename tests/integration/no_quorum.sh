#!/usr/bin/env bash
# Two of three replicas are gone: nothing is issued and callers are told within their timeout; keys are served on; all resumes.
# ctest: timeout=180
. "$(dirname "$0")/lib.sh"
cluster_up 3
make_node node1.example.com urn:example:prjA
n1=$work/node1.example.com
expect 0 as_client node1.example.com --json key create urn:example:prjA
ident=$(json ident <<<"$out") key=$(json key <<<"$out")
expect 0 kds-cli --json serial show
issued=$(json highestIssued <<<"$out")

say "without a quorum"
stop serial1 serial2
for ((i = 0; i < 3; i++)); do
	before=$SECONDS
	expect 4 kds-cli --timeout 4 cert sign "$n1/node.csr" --node node1.example.com --profile node
	[ $((SECONDS - before)) -le 15 ] || fail "the caller waited $((SECONDS - before)) s for a timeout of 4"
	assert_eq "what was printed" "" "$out"
	assert_eq "lines of the error" 1 "$(wc -l <<<"$err")"
done
expect 4 kds-cli --timeout 4 serial set-min all
expect 4 kds-cli --timeout 4 node add node9.example.com
expect 1 kds-cli --timeout 4 cluster health
alive ca1 || fail "kds-ca ended"
alive serial3 || fail "the last replica ended"

say "the replica that is left does not pass its state off as new"
expect 4 kds-cli --timeout 3 call Config.Watch '{"sinceRevision": "0"}' --address "$net.3:7400"
assert_match "the error" "no leader" "$err"

say "kds-keydist serves on"
expect 0 as_client node1.example.com --json key restore "$ident"
assert_eq "the key" "$key" "$(json key <<<"$out")"
expect 0 as_client node1.example.com key create urn:example:prjA

say "kds-keydist serves on even when it starts anew"
stop keydist1
start keydist1
wait_for "$patience" "the key from its own copy" as_client node1.example.com key restore "$ident"
assert_eq "the key" "$key" "$(as_client node1.example.com --json key restore "$ident" | json key)"

say "one replica returns: all resumes"
start serial1
sign_again() { kds-cli cert sign "$n1/node.csr" --node node1.example.com --profile node >"$work/again.crt"; }
wait_for "$patience" "a certificate" sign_again
serial=$(serial_of "$work/again.crt")
[ "$serial" -gt "$issued" ] || fail "serial $serial was issued before ($issued was the highest)"
start serial2
wait_healthy
