#!/usr/bin/env bash
# Somebody with real keys tries what docs/security-model.md says they cannot: a hostile node, kds-ca, kds-keydist, a
# replica's key, a removed replica's. One line an attempt: who, what, what came (tests/support/insider.py). A BREACH fails.
# ctest: serial timeout=420
. "$(dirname "$0")/../integration/lib.sh"
cluster_up 3
export KDS_INSIDER_CLUSTER=$cluster KDS_INSIDER_WORK=$work KDS_INSIDER_NET=$net KDS_INSIDER_TESTS=$tests
began=$SECONDS

# The distribution's Python has the distribution's protobuf. Goes on after a breach, ends where a control failed.
insider() {
	local status
	say "$* (after $((SECONDS - began)) s)"
	KDS_INSIDER_CA_PID=${pid_of[ca1]:-} /usr/bin/python3 "$source/tests/fault/insider_$1.py" "${@:2}" \
		2>"$work/insider.err" | tee -a "$work/attempts"
	status=${PIPESTATUS[0]}
	[ ! -s "$work/insider.err" ] || fail "insider_$1.py: $(tail -n 5 "$work/insider.err")"
	[ "$status" -le 1 ] || fail "insider_$1.py ended with status $status"
}

make_node node1.example.com 'urn:example:prjA#10s' urn:example:prjB
make_node node2.example.com urn:example:prjB urn:example:prjC
# Of a host and a role of their own: a second kds-ca, and what stands where kds-keydist could.
for role in ca keydist; do
	expect 0 kds-cli service issue "$role" "${role}9" "$net.103" --key "$work/${role}9.key" --out "$work/${role}9.crt"
done
# A lifespan of more than 500 intervals would stretch them.
expect 0 kds-cli config set masterkey.publish-ahead 0s
expect 0 kds-cli config set masterkey.lifespan 2h
expect 0 kds-cli config set masterkey.interval 1m

insider keydist trespass reads hoard spoil
insider ca writes reads opens records
insider node names everything group_keys impostor again hurry thieves

# Healthy is nobody before the masterKeys that cannot be opened are gone.
signs() { kds-cli --timeout 5 cert sign "$work/node2.example.com/node.csr" --node node2.example.com --profile node; }

# A CA three seconds behind signs what has expired by the replicas' time; short certificates had it drop block after block.
if [ -z "$sanitized" ]; then
	stop ca1
	echo 'ok -3' >"$work/ca1.shim"
	LD_PRELOAD=$tests/fault_shim.so KDS_SHIM_CONTROL=$work/ca1.shim kds-ca --config "$(config_of ca1)" >>"$work/ca1.log" 2>&1 &
	pid_of[ca1]=$!
	wait_for "$patience" "a certificate from a kds-ca that is behind" signs
	insider node short
	stop ca1
	start ca1
	wait_for "$patience" "a certificate from kds-ca" signs
fi
insider node short

make_node flood.example.com urn:example:prjA
make_node moved.example.com urn:example:prjA
make_node ca1 urn:example:prjA
insider node moved namesake flood

stop ca1
insider ca authority
start ca1
insider keydist rotation
wait_healthy

kill9 serial3
insider replica member
start serial3
wait_healthy
expect 0 kds-cli cluster remove serial3
gone() { ! alive serial3; }
wait_for "$patience" "serial3 to end" gone
wait "${pid_of[serial3]}" || true
unset "pid_of[serial3]"
sed -i "s/^serial-addresses = .*/serial-addresses = {\"$net.1:7400\", \"$net.2:7400\"}/" "$cluster/admin/cli.conf"
insider replica removed

wait_healthy
insider node aftermath
say "$(grep -c '^ok ' "$work/attempts") attempts refused in $((SECONDS - began)) s"
breaches=$(grep '^BREACH' "$work/attempts" || true)
[ -z "$breaches" ] || fail "$(wc -l <<<"$breaches") attempts succeeded that must not:"$'\n'"$breaches"
