#!/usr/bin/env bash
# Every verb of kds-cli that needs a cluster, with what it prints and its exit status. The main job itself is main_job.sh's.
# shellcheck disable=SC2154 # $out and $err are set by expect
. "$(dirname "$0")/lib.sh"
cluster_up 3
node=node1.example.com

refused() { # STATUS REGEX COMMAND...
	local status=$1 regex=$2
	shift 2
	expect "$status" "$@"
	assert_eq "standard output of '$*'" "" "$out"
	assert_eq "lines on standard error of '$*'" 1 "$(wc -l <"$work/err")"
	assert_match "the error of '$*'" "$regex" "$err"
}

say "node"
expect 0 kds-cli node list
assert_match "no nodes" "^NODE +ADDRESSES +GROUPS$" "$out"
expect 0 kds-cli node add $node --address 192.0.2.1 --address 2001:db8::1 --group 'urn:x:a#10s' --group urn:x:b
expect 0 kds-cli node add node2.example.com
expect 0 kds-cli node list
assert_match "the nodes" "$node +192.0.2.1, 2001:db8::1 +urn:x:a#10s, urn:x:b.*node2.example.com +- +-" "$out"
expect 0 kds-cli node show $node
assert_match "node1" "address: +192.0.2.1.*group: +urn:x:b" "$out"
expect 0 kds-cli --json node show $node
assert_eq "its groups" '["urn:x:a#10s", "urn:x:b"]' "$(json groups <<<"$out")"
refused 5 "exists already; add --replace" kds-cli node add $node
expect 0 kds-cli node add $node --replace --group 'urn:x:a#10s'
expect 0 kds-cli --json node show $node
assert_eq "its groups, replaced" '["urn:x:a#10s"]' "$(json groups <<<"$out")"
expect 0 kds-cli node remove node2.example.com
refused 5 "node2.example.com" kds-cli node remove node2.example.com
refused 5 "node2.example.com" kds-cli node show node2.example.com
refused 2 "kds" kds-cli node add evil.example.com --group 'kds://cluster.example.com/role/admin/evil'

say "config"
expect 0 kds-cli config set site.x 'a value'
expect 0 kds-cli config get site.x
assert_eq "a setting" "a value" "$out"
expect 0 kds-cli --json config get setting/site.x
revision=$(json revision <<<"$out")
refused 5 "$revision" kds-cli config set site.x b --expect $((revision - 1))
refused 5 "site.x" kds-cli config set site.x b --expect 0
expect 0 kds-cli config set site.x b --expect "$revision"
refused 2 "there is no setting 'x.y'" kds-cli config set x.y b
refused 2 "out of bounds; allowed is 5m to 167h" kds-cli config set certificate.node.lifetime 200h
expect 0 kds-cli config get certificate.node.lifetime
assert_eq "a default" "72h" "$out"
expect 0 kds-cli config set certificate.node.lifetime 24h
expect 0 kds-cli config list
assert_match "the settings" "certificate.node.lifetime +24h +[0-9]+ +72h +5m to 167h +kds-ca.*masterkey.interval +24h +- .*site.x +b +[0-9]+ " "$out"
expect 0 kds-cli --json config list
assert_eq "a default in JSON" "72h" "$(json default <<<"$out")"
expect 0 kds-cli config unset certificate.node.lifetime
expect 0 kds-cli config get certificate.node.lifetime
assert_eq "the default again" "72h" "$out"
expect 0 kds-cli config list --all
assert_match "all objects" "ca/default .*cluster .*masterkey/[0-9]{20} .*node/$node .*serial/min .*setting/site.x +[0-9]+ +b" "$out"
expect 0 kds-cli --json config list setting/
assert_eq "one object" 1 "$(grep -c '"key"' <<<"$out")"
expect 0 kds-cli config set service/keydist9 '{"service": {"name": "keydist9", "removed": true}}'
refused 2 "is for 'service/b', not for 'service/a'" kds-cli config set service/a '{"service": {"name": "b"}}'
refused 3 "masterkey/.*role keydist" kds-cli config set masterkey/00000000000000000001 '{"masterKey": {"publishedMs": "1", "useFromMs": "1", "sealedKey": "AAAA"}}'
kds-cli --json config watch --since "$revision" --count 3 setting/site. service/ >"$work/watched" 2>"$work/watch.log" &
pid_of[watch]=$!
# A watch tells of objects, not of each change: one that began after the next would see two.
wait_for "$patience" 'the watch to tell what changed so far' sh -c "[ \$(wc -l <'$work/watched') -eq 2 ]"
expect 0 kds-cli config unset site.x
wait "${pid_of[watch]}" || fail "config watch ended with $?: $(cat "$work/watch.log")"
unset "pid_of[watch]"
assert_eq "what the watch saw" '"service/keydist9" "setting/site.x"' \
	"$(sed 's/.*"key":\("[^"]*"\).*/\1/' "$work/watched" | sort -u | tr '\n' ' ' | sed 's/ $//')"
assert_match "the last change" '"deleted":true' "$(tail -n 1 "$work/watched")"
refused 5 "setting/site.x" kds-cli config get site.x
refused 5 "setting/site.x" kds-cli config unset site.x

say "cert"
cd "$work"
for kind in node kds; do
	expect 0 kds-cli cert request --name $node --key $kind.key --out $kind.csr
done
expect 0 kds-cli cert sign node.csr --out node.crt
expect 0 kds-cli cert sign - --profile kds-client --lifetime 1 --out kds.crt <kds.csr
expect 0 openssl x509 -in kds.crt -noout -ext subjectAltName,extendedKeyUsage
assert_match "the client's names" "DNS:key.example.com, URI:urn:x:a#10s" "$out"
assert_no_match "the client's usage" "Server" "$out"
expect 1 openssl x509 -in kds.crt -noout -checkend 3700
expect 0 kds-cli --json cert sign node.csr
assert_match "a serial in JSON" '^[0-9]+$' "$(json serial <<<"$out")"
expect 0 kds-cli cert match node.crt node.key
expect 0 kds-cli cert verify node.crt
assert_match "who it is" "accepted: $node \(node\)" "$out"
expect 0 kds-cli cert verify kds.crt
assert_match "who it is" "kds-client" "$out"
expect 0 kds-cli cert verify "$cluster/keydist1/service.crt"
expect 0 kds-cli cert list --subject $node
assert_match "what was issued" "$(serial_of node.crt) +$node +node .*$(serial_of kds.crt) +$node +kds-client .*admin" "$out"
expect 0 kds-cli --json cert list --since "$(serial_of kds.crt)"
assert_eq "issued later" 1 "$(grep -c '"fingerprint"' <<<"$out")"
refused 5 "stranger.example.com" kds-cli cert sign node.csr --node stranger.example.com
refused 2 "PKCS #10" kds-cli cert sign node.crt
refused 2 "lifetime" kds-cli cert sign node.csr --lifetime 168

say "ca"
expect 0 kds-cli ca list
assert_match "the CA" "default +cluster.example.com +1 +yes" "$out"
expect 0 kds-cli ca bundle --out bundle.pem
expect 0 openssl verify -CAfile bundle.pem node.crt
expect 0 kds-cli --json ca bundle
assert_eq "signing" true "$(json signing <<<"$out")"

say "key"
as_kds() { kds-cli --cert kds.crt --key kds.key "$@"; }
expect 0 as_kds key create urn:x:a
ident=$(sed -n 's/^ident: //p' <<<"$out")
first=$out
expect 0 as_kds key restore "$ident"
assert_eq "the key restored" "$first" "$out"
expect 0 kds-cli key list
assert_match "master keys" "CURRENT.* yes" "$out"
refused 3 "kds-client" kds-cli key create urn:x:a
refused 3 "urn:x:other" as_kds key create urn:x:other
refused 3 "certificate" as_kds serial show
refused 3 "another.example.com" kds-cli --cert node.crt --key node.key cert sign node.csr --node another.example.com
expect 0 kds-cli --cert node.crt --key node.key cert sign node.csr --out node.crt

say "service"
expect 0 kds-cli service issue admin alice --out alice.crt
as_alice() { kds-cli --cert alice.crt --key alice.key "$@"; }
expect 0 as_alice serial show
expect 0 kds-cli service remove alice
alice_is_refused() { ! as_alice serial show; }
wait_for "$patience" "the removed administrator to be refused" alice_is_refused
refused 3 "certificate" as_alice serial show
expect 1 kds-cli cert verify alice.crt
assert_match "why not" "removed" "$out"
expect 0 kds-cli service list
assert_match "the services" "alice +removed" "$out"
expect 0 kds-cli service restore alice
refused 5 "another administrator" kds-cli service remove admin
wait_for "$patience" "the administrator to be accepted again" as_alice serial show

say "service add: a further kds-ca and kds-keydist, complete"
expect 0 kds-cli service add ca ca2 "$net.103" --out "$cluster/ca2"
expect 0 kds-cli service add keydist keydist2 "$net.104:7421" --out "$cluster/keydist2" --seal "$cluster/keydist1/keydist.seal"
assert_match "what to do next" "kds-keydist --config $cluster/keydist2/kds-keydist.conf" "$out"
start ca2 keydist2
check() { kds-cli call Health.Check --address "$1" | grep -q '"serving": true'; }
wait_for "$patience" "ca2 to serve" check "$net.103:7410"
wait_for "$patience" "keydist2 to serve" check "$net.104:7421"
sed -e "s/^ca-addresses = .*/ca-addresses = {\"$net.103\"}/; s/^keydist-addresses = .*/keydist-addresses = {\"$net.104:7421\"}/" \
	"$cluster/admin/cli.conf" >"$cluster/admin/second.conf"
expect 0 kds-cli --config "$cluster/admin/second.conf" cert sign node.csr --node $node --out node.crt
expect 0 kds-cli --config "$cluster/admin/second.conf" --cert kds.crt --key kds.key key restore "$ident"
assert_eq "the key that another distributor made" "$first" "$out"
refused 2 "cluster add" kds-cli service add serial serial9 "$net.9" --out "$work/serial9"
refused 2 "ca or keydist" kds-cli service add node n9 "$net.9" --out "$work/n9"
refused 2 "name has" kds-cli service add ca 'x/../y' "$net.9" --out "$work/x"
refused 2 "out DIR" kds-cli service add ca ca3 "$net.9"
refused 5 "not empty" kds-cli service add ca ca2 "$net.9" --out "$cluster/ca2"
refused 2 "missing.seal" kds-cli service add ca ca3 "$net.9" --out "$work/ca3" --seal missing.seal
expect 0 kds-cli service remove ca3
refused 5 "was removed" kds-cli service add ca ca3 "$net.9" --out "$work/ca3"
[ ! -e "$work/ca3" ] || fail "a refused addition left its directory"
stop ca2 keydist2

say "call"
expect 0 kds-cli call Serial.Show
highest=$(json highestIssued <<<"$out")
assert_eq "the highest serial" "$(serial_of node.crt)" "$highest"
expect 0 kds-cli call Health.Check --address "$net.102:7420"
assert_eq "who answered" kds-keydist "$(json service <<<"$out")"
refused 3 "role" kds-cli call Serial.Show --address "$net.101:7410"
refused 5 "none.example.com" kds-cli call Config.Get '{"key": "node/none.example.com"}'
printf '{"prefix": "node/"}' >list.json
expect 0 kds-cli call Config.List - <list.json
assert_eq "a node" $node "$(json name <<<"$out")"

say "serial"
expect 0 kds-cli serial set-min latest
expect 0 kds-cli --json serial show
assert_eq "the minimum" "$highest" "$(json minSerial <<<"$out")"
expect 0 kds-cli cert verify node.crt
expect 1 kds-cli cert verify kds.crt
assert_match "why not" "min_serial $highest" "$out"
refused 5 "min" kds-cli serial set-min 1
refused 2 "99999999" kds-cli serial set-min 99999999
expect 0 kds-cli serial set-min all
expect 1 kds-cli cert verify node.crt

say "cluster"
expect 0 kds-cli cluster view
assert_match "the view" "Quorum: yes. Replica [123] leads; 3 of 3.*survives the loss of 1 of 3 voters; 1 more" "$out"
assert_no_match "the view" "Alarms" "$out"
expect 0 kds-cli cluster health
kill9 serial1
kill9 serial2
no_quorum() { ! kds-cli --json cluster view | json quorum | grep -q true; }
wait_for "$patience" "the view to say so" no_quorum
expect 0 kds-cli cluster view
assert_match "the view" "1 +serial1 +$net.1:7400 +NO +- .*Quorum: NO. 1 of 3 voters.*survives the loss of 1 of 3 voters; 0 more.*No answer from $net.1:7400.*Alarms:.*no quorum: 1 of 3.*serial1 .replica 1. is not reachable" "$out"
expect 1 kds-cli cluster health --timeout 2
assert_match "health" "kds-serial +- +$net.2:7400 +NO .*Quorum: NO.*Alarms:.*no quorum" "$out"
refused 4 "see kds-cli cluster health" kds-cli serial show --timeout 2
expect 0 kds-cli serial show --local
assert_match "how old it is" "^local state of revision [0-9]+, [0-9]+ ms old$" "$err"
expect 0 kds-cli cert list --local
assert_match "how old it is" "^local state of revision [0-9]+, [0-9]+ ms old$" "$err"
expect 0 kds-cli node list --local
assert_match "the nodes, from one replica" "$node" "$out"
