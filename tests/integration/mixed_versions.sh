#!/usr/bin/env bash
# Replicas of two versions in one cluster: a version that knows more is installed one by one, and can be taken back until all have it.
# ctest: timeout=240
. "$(dirname "$0")/lib.sh"

declare -A next
program_of() {
	local program=kds-${1%%[0-9]*}
	if [ -n "${next[$1]:-}" ]; then printf '%s/%s-next' "$tests" "$program"; else printf '%s' "$program"; fi
}
config_of() { printf '%s/%s/kds-%s.conf' "$cluster" "$1" "${1%%[0-9]*}"; }

# What each replica says: "2 2 2".
levels() { kds-cli --json call Replicas.View '{}' | python3 -c '
import json, sys
print(*[m.get("status", {}).get(sys.argv[1], 0) for m in json.load(sys.stdin)["members"]])' "$1"; }
levels_are() { [ "$(levels level)" = "$1" ]; }
known_are() { [ "$(levels levelKnown)" = "$1" ]; }

cluster_up 3
make_node node1.example.com urn:example:prjA
wait_for "$patience" "the level of this version" levels_are "2 2 2"

# $1: what is written.
works() {
	wait_for "$patience" "a write" kds-cli config set site.version "$1"
	expect 0 kds-cli config get site.version
	assert_eq "what was written" "$1" "$out"
	sign "$work/node1.example.com/node" node1.example.com node
}

say "installed on two of three"
known="2 2 2"
for i in 1 2; do
	stop serial$i
	next[serial$i]=1
	start serial$i
	known=${known/2/3}
	wait_for "$patience" "the new version" known_are "$known"
	works "with $i"
	assert_eq "the level" "2 2 2" "$(levels level)"
done

say "each version leads"
for name in serial3 serial1; do
	for other in serial1 serial2 serial3; do
		[ $other = $name ] || kill9 $other
	done
	for other in serial1 serial2 serial3; do
		[ $other = $name ] || start $other
	done
	works "after the others of $name"
done

say "taken back from one"
stop serial1
unset "next[serial1]"
start serial1
wait_for "$patience" "the old version" known_are "2 3 2"
works "taken back"

say "installed on all"
stop serial3
cp -a "$cluster/serial3/data" "$work/before"
next[serial3]=1 next[serial1]=1
stop serial1
start serial1 serial3
wait_for "$patience" "the next level" levels_are "3 3 3"
works "all"

say "what does not know the level is no replica any more"
stop serial3
unset "next[serial3]"
start serial3
if reap serial3; then fail "a replica of the old version ran on"; fi
assert_match "what it says" "level 3.* knows those up to 2: install the version" "$(tail -n 2 "$work/serial3.log")"
works "without serial3"

say "nor one that was away when it was agreed"
mv "$cluster/serial3/data" "$work/after"
mv "$work/before" "$cluster/serial3/data"
start serial3
if reap serial3; then fail "a replica of the old version ran on"; fi
assert_match "what it says" "level 3.* knows those up to 2: install the version" "$(tail -n 2 "$work/serial3.log")"
works "without serial3, still"

say "with the new version it is back"
rm -rf "$cluster/serial3/data"
mv "$work/after" "$cluster/serial3/data"
next[serial3]=1
start serial3
wait_for "$patience" "the replica" levels_are "3 3 3"
works "in the end"
