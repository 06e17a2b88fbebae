#!/usr/bin/env bash
# kds-keydist with a sealing key that does not open what is there: an alarm, and keys of its own from the next interval on.
# ctest: timeout=240
. "$(dirname "$0")/lib.sh"
cluster_init 1
start serial1 ca1
wait_for "$patience" "a leader" has_leader
create_ca
expect 0 kds-cli config set masterkey.lifespan 1h
expect 0 kds-cli config set masterkey.interval 1m
start keydist1
wait_healthy
make_node node1.example.com urn:example:prjA
expect 0 as_client node1.example.com --json key create urn:example:prjA
ident=$(json ident <<<"$out")
health() { expect "$1" kds-cli --json cluster health; }
own_alarms() {
	json processes <"$work/out" | python3 -c '
import json, sys
print("\n".join(a for p in json.load(sys.stdin) for a in p.get("check", {}).get("alarms", [])))'
}
health 0
assert_eq "alarms of a healthy cluster" "" "$(own_alarms)"

say "another file of sealing keys"
stop keydist1
expect 0 kds-cli init --cluster cluster.example.com --kds-name key.example.com --dir "$work/other" --replicas "$net.1"
cp "$cluster/keydist1/keydist.seal" "$work/keydist.seal"
cp "$work/other/keydist1/keydist.seal" "$cluster/keydist1/keydist.seal"
start keydist1
alarmed() { health 1 && [[ $(own_alarms) =~ "cannot be unsealed, the newest is masterkey/" ]]; }
wait_for "$patience" "the alarm" alarmed

say "it goes on with keys of its own"
serves() { as_client node1.example.com key create urn:example:prjA >/dev/null; }
wait_for 100 "the next masterKey" serves
health 1
assert_match "what it says" "cannot be unsealed.*keydist.seal" "$(own_alarms)"
expect 1 kds-cli cluster health
assert_match "a daemon that serves, with an alarm" "kds-keydist +keydist1 .* ALARM " "$out"
assert_match "the alarm of it" "Alarm of kds-keydist keydist1: [0-9]+ of the masterKeys cannot be unsealed" "$out"
expect 4 as_client node1.example.com key restore --timeout 2 "$ident" # not 5: another kds-keydist may have it
assert_match "why" "cannot be unsealed here; ask another kds-keydist" "$err"

say "with both sealing keys all is well"
stop keydist1
cat "$work/keydist.seal" >>"$cluster/keydist1/keydist.seal"
start keydist1
wait_healthy
expect 0 as_client node1.example.com key restore "$ident"
