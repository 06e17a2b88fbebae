#!/usr/bin/env bash
# A backup of a running cluster: it holds all that was acknowledged before it began, it is whole or refused.
# ctest: timeout=300
. "$(dirname "$0")/lib.sh"
cluster_up 3
make_node node1.example.com urn:example:prjA
n1=$work/node1.example.com
mkdir "$work/handed"

# Until $work/enough appears: signs, and keeps each certificate that it was handed.
sign_load() {
	local n=0
	while [ ! -e "$work/enough" ]; do
		n=$((n + 1))
		if kds-cli --timeout 20 cert sign "$n1/node.csr" --node node1.example.com --profile node >"$work/handed/$n" 2>>"$work/sign.err"; then
			mv "$work/handed/$n" "$work/handed/$n.crt"
		fi
	done
}
handed() { find "$work/handed" -name '*.crt' | wc -l; }
more_than() { [ "$(handed)" -gt "$1" ]; }

say "a state of several pages"
for ((i = 0; i < 75; i++)); do
	python3 -c '
import json, sys
groups = ["urn:example:%s:%d" % ("x" * 220, n) for n in range(40)]
print(json.dumps({"object": {"node": {"name": "long%s.example.com" % sys.argv[1], "groups": groups}}}))' "$i" >"$work/put.json"
	expect 0 kds-cli call Config.Put - <"$work/put.json"
done

say "saved from each replica while certificates are signed"
sign_load &
load=$!
for i in 1 2 3; do
	before=$(handed)
	wait_for "$patience" "more certificates" more_than $((before + 3))
	expect 0 kds-cli --json serial show
	highest=$(json highestIssued <<<"$out")
	expect 0 kds-cli --json backup save "$work/b$i" --address "$net.$i"
	assert_eq "saved from" "serial$i" "$(json replica <<<"$out")"
	saved=$(json highestIssued <<<"$out")
	[ "$saved" -ge "$highest" ] || fail "serial $highest was acknowledged before the backup, which ends at $saved"
	[ "$(json bytes <<<"$out")" -gt 600000 ] || fail "it cannot hold all nodes: $out"
	assert_eq "its mode" 600 "$(stat -c %a "$work/b$i")"
	expect 0 kds-cli --json backup verify "$work/b$i"
	assert_eq "valid" true "$(json valid <<<"$out")"
	assert_eq "the cluster" cluster.example.com "$(json cluster <<<"$out")"
	assert_eq "the highest issued" "$saved" "$(json highestIssued <<<"$out")"
done
touch "$work/enough"
wait $load

say "from any replica, and while one is gone"
expect 0 kds-cli backup save "$work/any"
stop serial1
expect 0 kds-cli --timeout 3 backup save "$work/without1"
expect 4 kds-cli --timeout 3 backup save "$work/never" --address "$net.1"
[ -z "$(find "$work" -maxdepth 1 -name 'never*')" ] || fail "a half backup was left: $(ls "$work")"

say "an older file is not replaced without --force"
expect 5 kds-cli backup save "$work/any"
expect 0 kds-cli backup save "$work/any" --force

say "only administrators; a follower of the configuration has no use for it"
expect 3 kds-cli --cert "$cluster/ca1/service.crt" --key "$cluster/ca1/service.key" backup save "$work/ca"
expect 3 kds-cli --cert "$cluster/keydist1/service.crt" --key "$cluster/keydist1/service.key" backup save "$work/ca"

say "what is damaged is found"
size=$(stat -c %s "$work/b1")
for at in 0 20 1000 $((size / 2)) $((size - 1)); do
	cp "$work/b1" "$work/damaged"
	byte=$(od -An -tu1 -j "$at" -N 1 "$work/damaged")
	printf '%b' "\\x$(printf %x $((byte ^ 1)))" | dd of="$work/damaged" bs=1 seek="$at" conv=notrunc status=none
	expect 1 kds-cli backup verify "$work/damaged"
	assert_eq "standard output" "" "$out"
	assert_match "the problem" "damaged|not a backup" "$err"
done
head -c $((size / 2)) "$work/b1" >"$work/damaged"
expect 1 kds-cli --json backup verify "$work/damaged"
assert_eq "valid" false "$(json valid <<<"$out")"
expect 1 kds-cli backup verify "$n1/node.crt"
expect 2 kds-cli backup verify "$work/nothing"

say "without a quorum what one replica has can be had, when asked for"
stop serial2
expect 4 kds-cli --timeout 3 backup save "$work/last"
expect 0 kds-cli --timeout 3 backup save "$work/last" --local --address "$net.3"
expect 0 kds-cli backup verify "$work/last"
