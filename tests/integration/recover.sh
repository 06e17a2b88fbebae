#!/usr/bin/env bash
# Two of three replicas are lost for good: the survivor's state begins a new cluster, and only when no majority is left.
# ctest: timeout=300
. "$(dirname "$0")/lib.sh"
cluster_up 3
make_node node1.example.com urn:example:prjA
n1=$work/node1.example.com
before=$(serial_of "$n1/kds.crt")
expect 0 as_client node1.example.com --json key create urn:example:prjA
ident=$(json ident <<<"$out") key=$(json key <<<"$out")

# recover STATUS WORDS ARGUMENTS...
recover() {
	local status=$1 words=$2
	shift 2
	expect "$status" kds-serial --config "$(config_of serial1)" --recover "$@"
	assert_match "the answer" "$words" "${out//$'\n'/ } $err"
}
state() { python3 -c '
import sqlite3, sys
db = sqlite3.connect("file:%s/data/replica.db?mode=ro" % sys.argv[1], uri=True)
print(db.execute("SELECT applied, last_serial, min_serial, revision FROM numbers").fetchone(), db.execute("SELECT count(*) FROM log").fetchone())' "$cluster/serial1"; }

say "refused while the replica itself runs, and while a majority is alive"
recover 1 "locked" --min-serial keep --yes-lose-what-the-majority-had
stop serial1
was=$(state)
recover 1 "refused.*majority" --min-serial keep --yes-lose-what-the-majority-had
stop serial3
recover 1 "refused.*2 of 3" --min-serial keep --yes-lose-what-the-majority-had
assert_eq "the state" "$was" "$(state)"
start serial1 serial3
wait_healthy

say "two are killed while certificates are signed, and their disks are gone"
mkdir "$work/handed"
sign_load() {
	local n=0
	while [ ! -e "$work/enough" ]; do
		n=$((n + 1))
		if kds-cli --timeout 2 cert sign "$n1/node.csr" --node node1.example.com --profile node >"$work/handed/$n" 2>/dev/null; then
			mv "$work/handed/$n" "$work/handed/$n.crt"
		fi
	done
}
sign_load &
load=$!
handed() { find "$work/handed" -name '*.crt' | wc -l; }
more_than() { [ "$(handed)" -gt "$1" ]; }
wait_for "$patience" "certificates" more_than 5
kill9 serial2
kill9 serial3
touch "$work/enough"
wait $load
mv "$cluster/serial3/data" "$work/data3"
rm -rf "$cluster/serial2/data"
kill9 serial1
highest=$before
for file in "$work"/handed/*.crt; do
	serial=$(serial_of "$file")
	[ "$serial" -le "$highest" ] || highest=$serial
done

say "it demands the decision on min_serial, and a confirmation"
was=$(state)
recover 2 "min-serial.*keep.*all" --yes-lose-what-the-majority-had
recover 2 "keep, all or a serial" --min-serial few --yes-lose-what-the-majority-had
recover 2 "skip" --min-serial keep --skip 10 --yes-lose-what-the-majority-had
recover 2 "is lost:.*1000000 are skipped.*nothing was changed" --min-serial all
expect 2 kds-serial --config "$(config_of serial1)" --min-serial all
assert_eq "the state" "$was" "$(state)"

say "the survivor begins a cluster of its own"
recover 0 "serial2 .*does not answer.*Done" --min-serial all --yes-lose-what-the-majority-had
expect 0 kds-cli backup verify "$cluster"/serial1/data/recovered-*.kds
expect 0 kds-serial --config "$(config_of serial1)" --check-config
start serial1
show() { kds-cli --timeout 2 --json serial show >"$work/show"; }
wait_for "$patience" "an answer" show
minimum=$(json minSerial <"$work/show")
[ "$minimum" -gt $((highest + 1000000)) ] || fail "serials up to $highest were handed out, the minimum is $minimum"
sign_again() { kds-cli cert sign "$n1/node.csr" --node node1.example.com --profile node >"$work/again.crt"; }
wait_for "$patience" "a certificate" sign_again
[ "$(serial_of "$work/again.crt")" -ge "$minimum" ] || fail "serial $(serial_of "$work/again.crt") is below the minimum $minimum"
expect 0 kds-cli --json cert list
assert_match "the records from before" "\"serial\": \"$before\"" "$out"
sign "$n1/kds" node1.example.com kds-client
expect 0 as_client node1.example.com --json key restore "$ident"
assert_eq "a key from before" "$key" "$(json key <<<"$out")"

say "who was lost stays outside when it comes back"
mv "$work/data3" "$cluster/serial3/data"
start serial3
refused() { grep -q "refused.*'serial3' is no replica of this cluster" "$work/serial1.log"; }
wait_for "$patience" "serial3 to be refused" refused
expect 0 kds-cli --json call Serial.Show '{}' --address "$net.1"
[ "$(json minSerial <<<"$out")" -ge "$minimum" ] || fail "the minimum went back: $out"
stop serial3

say "it grows again: a new replica takes the state over"
sed -i '/^replica "serial[23]"/,/^}/d' "$(config_of serial1)"
stop serial1
start serial1
wait_for "$patience" "an answer" show
expect 0 kds-cli cluster add serial4 --address "$net.4" --out "$cluster/serial4" --wait 0
start serial4
votes() { kds-cli --json cluster members | python3 -c '
import json, sys
members = {m["replica"]["name"]: m for m in json.load(sys.stdin)["members"]}
sys.exit(0 if sorted(members) == ["serial1", "serial4"] and members["serial4"]["votes"] else 1)'; }
wait_for "$patience" "serial4 to vote" votes
expect 0 kds-cli --json call Serial.Show '{"local": true}' --address "$net.4"
assert_eq "the minimum" "$minimum" "$(json minSerial <<<"$out")"

say "it goes on after a restart, for which serial1 hands over to the new one, which its configuration does not name"
stop serial1
grep -q 'handed over leader=2' "$work/serial1.log" || fail "serial1 did not hand over"
start serial1
wait_for "$patience" "an answer" show
assert_eq "the minimum" "$minimum" "$(json minSerial <"$work/show")"
