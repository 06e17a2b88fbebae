#!/usr/bin/env bash
# A cluster is lost and begins again with a backup: no serial comes twice, what was decided holds, the old replicas stay outside.
# ctest: timeout=300
. "$(dirname "$0")/lib.sh"
cluster_up 3
old=$cluster
make_node node1.example.com urn:example:prjA
n1=$work/node1.example.com
expect 0 as_client node1.example.com --json key create urn:example:prjA
ident=$(json ident <<<"$out") key=$(json key <<<"$out")
expect 0 kds-cli node add node2.example.com
before=$(serial_of "$n1/kds.crt")

say "a backup, and what comes after it"
expect 0 kds-cli --json backup save "$work/backup"
last=$(json lastSerial <<<"$out")
for ((i = 0; i < 3; i++)); do
	expect 0 kds-cli cert sign "$n1/node.csr" --node node1.example.com --profile node
	printf '%s\n' "$out" >"$work/later.crt"
done
later=$(serial_of "$work/later.crt")
expect 0 kds-cli node remove node2.example.com
expect 0 kds-cli node add node3.example.com
# A block that no backup knows of.
expect 0 kds-cli --cert "$old/ca1/service.crt" --key "$old/ca1/service.key" --json call Serial.Allocate '{"count": 5000}'
lost=$(json last <<<"$out")
stop serial1 serial2
kill9 serial3

say "the decision on min_serial is demanded"
refused() { # WORDS ARGUMENTS...
	local words=$1
	shift
	expect 2 kds-cli backup restore "$@"
	assert_match "the error" "$words" "$err"
	[ ! -e "$work/restored" ] || fail "something was made: $(ls "$work/restored")"
}
hosts=$net.1,$net.2,$net.3
refused "min-serial.*keep.*all" "$work/backup" --dir "$work/restored" --replicas "$hosts"
refused "1000000" "$work/backup" --dir "$work/restored" --replicas "$hosts" --min-serial keep --skip 999
refused "min_serial would be" "$work/backup" --dir "$work/restored" --replicas "$hosts" --min-serial $((last + 1000002))
refused "keep, all or a serial" "$work/backup" --dir "$work/restored" --replicas "$hosts" --min-serial some
head -c 2000 "$work/backup" >"$work/half"
expect 6 kds-cli backup restore "$work/half" --dir "$work/restored" --replicas "$hosts" --min-serial keep

say "prepared: twice, which makes two clusters"
expect 0 kds-cli backup restore "$work/backup" --dir "$work/other" --replicas "$hosts" --min-serial all --skip 2000000
assert_match "what it says" "2000000 more are skipped.*the next one is $((last + 2000001)).*below $((last + 2000001)) are refused" "${out//$'\n'/ }"
expect 0 kds-cli --json backup restore "$work/backup" --dir "$work/restored" --replicas "$hosts" --min-serial keep
assert_eq "skipped" 1000000 "$(json skipped <<<"$out")"
assert_eq "the next serial" $((last + 1000001)) "$(json firstSerial <<<"$out")"
expect 0 kds-cli --json backup verify "$work/restored/serial1/restore.kds"
assert_eq "prepared" true "$(json prepared <<<"$out")"
cmp "$work/restored/serial1/restore.kds" "$work/restored/serial3/restore.kds" || fail "the replicas' files differ"

say "a damaged file, or a backup that nobody decided on, begins nothing"
cluster=$work/restored
cp "$cluster/serial1/restore.kds" "$work/good"
printf x | dd of="$cluster/serial1/restore.kds" bs=1 seek=1500 conv=notrunc status=none
expect 1 kds-serial --config "$(config_of serial1)"
assert_match "the error" "restore: .*damaged" "$out$err"
cp "$work/backup" "$cluster/serial1/restore.kds"
expect 1 kds-serial --config "$(config_of serial1)"
assert_match "the error" "as it was saved" "$out$err"
cp "$work/good" "$cluster/serial1/restore.kds"

say "it begins; kds-ca and kds-keydist stay as they are"
start serial1 serial2 serial3
wait_healthy
expect 0 kds-cli --json serial show
assert_eq "the minimum" 1 "$(json minSerial <<<"$out")"
expect 0 kds-cli --json cert list
assert_match "the records from before" "\"serial\": \"$before\"" "$out"
assert_no_match "the records since" "\"serial\": \"$later\"" "$out"
expect 0 as_client node1.example.com --json key restore "$ident"
assert_eq "a key from before" "$key" "$(json key <<<"$out")"
sign_again() { kds-cli cert sign "$n1/node.csr" --node node1.example.com --profile node >"$work/again.crt"; }
wait_for "$patience" "a certificate" sign_again
serial=$(serial_of "$work/again.crt")
[ "$serial" -gt $((last + 1000000)) ] && [ "$serial" -gt "$lost" ] || fail "serial $serial may have been handed out before"
say "the daemons follow the configuration that was restored"
expect 0 kds-cli node list
assert_match "the nodes" "node2.example.com" "$out"
assert_no_match "the nodes" "node3.example.com" "$out"
node3_unknown() { kds-cli cert sign "$n1/node.csr" --node node3.example.com --profile node 2>&1 | grep -q node3; }
wait_for "$patience" "kds-ca to forget node3" node3_unknown

say "it goes on after a restart, without the file"
stop serial1
rm "$cluster/serial1/restore.kds"
start serial1
wait_healthy

say "a replica of the old cluster, or of another restore, stays outside"
stop serial3
for dir in "$old" "$work/other"; do
	cluster=$dir
	seen=$(grep -c "began differently" "$work/serial3.log" || true)
	start serial3
	refused_again() { [ "$(grep -c "began differently" "$work/serial3.log")" -gt "$seen" ]; }
	wait_for "$patience" "it and the others to refuse each other" refused_again
	expect 4 kds-cli --timeout 3 call Serial.Show '{}' --address "$net.3:7400"
	stop serial3
done
grep -q "refused replica serial3.*began differently" "$work/serial1.log" || fail "serial1 does not say why it refuses serial3"
cluster=$work/restored
expect 0 kds-cli --json serial show
[ "$(json lastSerial <<<"$out")" -ge "$serial" ] || fail "the serials went back: $out"
start serial3
wait_healthy
