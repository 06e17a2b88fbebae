#!/usr/bin/env bash
# A cluster gets its CA when an administrator asks for one, and only then; kds-ca without one says what to run.
. "$(dirname "$0")/lib.sh"

refused() { # STATUS WORDS COMMAND...: with one line that says so
	local status=$1 words=$2
	shift 2
	expect "$status" "$@"
	assert_match "the error of '$*'" "$words" "$err"
	assert_eq "lines of the error of '$*'" 1 "$(wc -l <<<"$err")"
}

cluster_init 1
# shellcheck disable=SC2046
start $(all_names)
wait_for "$patience" "a leader" has_leader
expect 0 kds-cli node add node1.example.com
new_request "$work/node" node1.example.com

say "without a CA nothing is signed, and none comes about"
told() { kds-cli cluster health | grep -q "kds-cli ca create default"; }
wait_for "$patience" "kds-ca to say what to run" told
refused 5 "kds-cli ca create default" kds-cli cert sign "$work/node.csr" --node node1.example.com
expect 0 kds-cli --json config list
assert_no_match "the configuration" "ca/" "$out"
expect 0 kds-cli --json cert list
assert_no_match "the records" "fingerprint" "$out"

say "an administrator creates it, once"
refused 5 "ca/default|none" kds-cli ca show
refused 2 "letters" kds-cli ca create "Web CA"
refused 2 "letters" kds-cli call Ca.Create '{"name": "Web CA"}'
refused 2 "common_name" kds-cli call Ca.Create "{\"name\": \"web\", \"commonName\": \"$(printf '%065d' 0)\"}"
refused 3 "admin" kds-cli --cert "$cluster/ca1/service.crt" --key "$cluster/ca1/service.key" ca create
expect 0 kds-cli ca create
assert_match "what was created" "subject: +cluster.example.com.*signs: +yes" "$out"
expect 0 kds-cli cert sign "$work/node.csr" --node node1.example.com # at once
printf '%s\n' "$out" >"$work/node.crt"
wait_healthy
refused 5 "there is one of this name" kds-cli ca create
refused 5 "there is one of this name" kds-cli ca create default --common-name other
expect 0 kds-cli --json ca list
assert_eq "the CA" default "$(json name <<<"$out")"
expect 0 kds-cli ca show default
assert_match "the CA" "name: +default" "$out"

say "a second one, with a common name of its own"
refused 2 "common_name.*has the common name" kds-cli ca create second --common-name cluster.example.com
refused 2 "common_name.*different keys" kds-cli ca create second --common-name "cluster.example.com infrastructure CA"
expect 0 kds-cli ca create second
assert_match "what signs with it" "option 'authority' names it" "$err"
assert_match "its subject" "subject: +cluster.example.com second" "$out"
expect 0 kds-cli ca list
assert_match "the CAs" "default +cluster.example.com +.*second +cluster.example.com second" "$out"

say "it goes when an administrator says so, in two steps"
refused 5 "retire it first" kds-cli call Config.Delete '{"key": "ca/second"}'
refused 5 "retire it first" kds-cli ca delete second
refused 3 "changed by the role admin" kds-cli --cert "$cluster/ca1/service.crt" --key "$cluster/ca1/service.key" ca delete second
refused 3 "changed by the role admin" kds-cli --cert "$cluster/ca1/service.crt" --key "$cluster/ca1/service.key" ca retire second
expect 0 kds-cli ca retire second
expect 0 kds-cli ca list
assert_match "the CAs" "second +cluster.example.com second +[0-9]+ +no" "$out"
expect 0 kds-cli ca retire --undo second
assert_match "what it says" "CA second signs again" "$err"
expect 0 kds-cli ca retire second
expect 0 kds-cli ca delete second
expect 0 kds-cli ca list
assert_no_match "the CAs" "second" "$out"
expect 0 kds-cli ca retire default
refused 5 "retired" kds-cli cert sign "$work/node.csr" --node node1.example.com
expect 0 kds-cli ca retire --undo default
expect 0 kds-cli cert sign "$work/node.csr" --node node1.example.com # the key is still there

say "a name that no CA can have is refused at the start, and nothing is written"
stop ca1
echo 'authority = "Web CA"' >>"$(config_of ca1)"
expect 2 kds-ca --config "$(config_of ca1)" --check-config
assert_match "the error" "authority.*letters" "$err"
