#!/usr/bin/env bash
# Rounds of kill -9 of one of the five processes, while certificates are signed and nodes added: nothing that was acknowledged is
# lost, no serial comes twice, who was killed catches up.
# ctest: serial timeout=1200
. "$(dirname "$0")/../integration/lib.sh"
rounds=${KDS_TEST_COUNT:-${sanitized:+10}}
rounds=${rounds:-24}
cluster_up 3
make_node node1.example.com urn:example:prjA
n1=$work/node1.example.com
RANDOM=${KDS_TEST_SEED:-$$}
say "seed ${KDS_TEST_SEED:-$$} (KDS_TEST_SEED)"

# Until $work/enough appears: signs, and notes each certificate that it was handed.
sign_load() { # NUMBER
	local n=0 file
	while [ ! -e "$work/enough" ]; do
		n=$((n + 1))
		file=$work/handed/$1.$n
		if kds-cli --timeout 20 cert sign "$n1/node.csr" --node node1.example.com --profile node >"$file" 2>>"$work/sign.err"; then
			mv "$file" "$file.crt"
		else
			rm -f "$file"
		fi
	done
}

# The same for the configuration: notes each node whose addition was acknowledged.
node_load() {
	local n=0
	while [ ! -e "$work/enough" ]; do
		n=$((n + 1))
		if kds-cli --timeout 20 node add "load$n.example.com" >/dev/null 2>>"$work/node.err"; then
			echo "load$n.example.com" >>"$work/added"
		fi
		sleep 0.05
	done
}

mkdir "$work/handed"
touch "$work/added"
loads=()
for i in 1 2; do
	sign_load $i &
	loads+=($!)
	pid_of[sign$i]=$!
done
node_load &
loads+=($!)
pid_of[node]=$!

handed() { find "$work/handed" -name '*.crt' | wc -l; }
more_than() { [ "$(handed)" -gt "$1" ]; }
victims=(serial1 serial2 serial3 ca1 keydist1)
for ((round = 1; round <= rounds; round++)); do
	# Every process in turn at least, else any.
	if [ "$round" -le ${#victims[@]} ]; then
		victim=${victims[round - 1]}
	else
		victim=${victims[RANDOM % ${#victims[@]}]}
	fi
	n=$(handed)
	kill9 "$victim"
	case $victim in
	serial*) wait_for 60 "a certificate without $victim (round $round)" more_than $((n + 2)) ;; # one may have been under way
	esac
	start "$victim"
	wait_healthy
	wait_for 60 "a certificate after $victim came back (round $round)" more_than "$(handed)"
done
touch "$work/enough"
wait "${loads[@]}"
unset "pid_of[sign1]" "pid_of[sign2]" "pid_of[node]"
say "$rounds rounds: $(handed) certificates handed out, $(wc -l <"$work/added") nodes added"

say "no serial twice; a record with the same fingerprint for each certificate that was handed out"
after=0
: >"$work/records"
while :; do
	expect 0 kds-cli --json call Serial.ListCertificates "{\"afterSerial\": \"$after\", \"limit\": 1000}"
	python3 -c '
import json, sys
for c in json.load(sys.stdin).get("certificates", []):
    print(c["serial"], c["fingerprint"])' <"$work/out" >"$work/page"
	[ -s "$work/page" ] || break
	cat "$work/page" >>"$work/records"
	after=$(tail -n 1 "$work/page" | cut -d' ' -f1)
done
assert_eq "serials with two records" "" "$(cut -d' ' -f1 "$work/records" | sort | uniq -d)"
for file in "$work"/handed/*.crt; do
	printf '%s %s\n' "$(serial_of "$file")" "$(openssl x509 -in "$file" -outform DER | openssl dgst -sha256 -binary | base64)"
done >"$work/certificates"
assert_eq "serials handed out twice" "" "$(cut -d' ' -f1 "$work/certificates" | sort | uniq -d)"
assert_eq "certificates without their record" "" "$(sort "$work/certificates" | comm -23 - <(sort "$work/records") | head -n 5)"

say "no acknowledged node is lost"
while read -r name; do
	expect 0 kds-cli node show "$name"
done < <(shuf -n 40 "$work/added")

say "all replicas hold the same"
# Of an answer what belongs to the state; a local one also says how old it is.
state_of() { python3 -c 'import json, sys; d = json.load(sys.stdin); d.pop("readFrom", None); print(json.dumps(d, sort_keys=True))'; }
for i in 1 2 3; do
	same() {
		local here there
		here=$(kds-cli --json call Serial.Show '{"local": true}' --address "$net.$i:7400" | state_of) &&
			there=$(kds-cli --json call Serial.Show '{}' | state_of) && [ "$here" = "$there" ]
	}
	wait_for "$patience" "serial$i to hold what the leader holds" same
done
