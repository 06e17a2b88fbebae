#!/usr/bin/env bash
# What follows the replicated state on every replica: who is let in, and the mirror in plain text.
# ctest: timeout=180
. "$(dirname "$0")/lib.sh"
cluster_up 3
make_node node1.example.com urn:example:prjA

mirror_says() { # LINE: in each replica's file
	local i
	for i in 1 2 3; do
		grep -qx "$1" "$cluster/serial$i/data/ca/serial" || return 1
	done
}
as_ca() { kds-cli --cert "$cluster/ca1/service.crt" --key "$cluster/ca1/service.key" --timeout 5 "$@"; }
replica_takes() { # ADDRESS COMMAND...: asks that replica alone
	local address=$1 file=$cluster/admin/one.conf
	shift
	sed "s/^serial-addresses.*/serial-addresses = {\"$address\"}/" "$cluster/admin/cli.conf" >"$file"
	KDS_CONFIG=$file "$@"
}

say "the mirror follows"
expect 0 kds-cli --json serial show
wait_for "$patience" "last_serial in each mirror" mirror_says "last_serial $(json lastSerial <<<"$out")"
wait_for "$patience" "highest_issued in each mirror" mirror_says "highest_issued $(json highestIssued <<<"$out")"
for i in 1 2 3; do
	expect 0 openssl x509 -in "$cluster/serial$i/data/ca/cert.pem" -noout -subject
	assert_match "the CA in the mirror of serial$i" "cluster.example.com" "$out"
	expect 0 openssl verify -CAfile "$cluster/serial$i/data/ca/cert.pem" "$work/node1.example.com/node.crt"
done
expect 0 kds-cli serial set-min all
expect 0 kds-cli --json serial show
wait_for "$patience" "min_serial in each mirror" mirror_says "min_serial $(json minSerial <<<"$out")"

say "nodes have no business here"
for i in 1 2 3; do
	expect 3 replica_takes "$net.$i:7400" kds-cli --cert "$work/node1.example.com/node.crt" \
		--key "$work/node1.example.com/node.key" --timeout 5 serial show --local
done

say "a service that was removed is refused by each replica, and comes back"
expect 0 as_ca serial show
expect 0 kds-cli call Config.Put '{"object": {"service": {"name": "ca1", "removed": true}}}'
is_refused() {
	local i
	for i in 1 2 3; do
		if replica_takes "$net.$i:7400" as_ca serial show --local; then
			return 1
		fi
	done
}
wait_for "$patience" "ca1 to be refused" is_refused
expect 0 kds-cli call Config.Delete '{"key": "service/ca1"}'
is_taken() {
	local i
	for i in 1 2 3; do
		replica_takes "$net.$i:7400" as_ca serial show --local || return 1
	done
}
wait_for "$patience" "ca1 to be taken again" is_taken

say "a replica that starts knows whom to trust before it listens"
expect 0 kds-cli call Config.Put '{"object": {"service": {"name": "ca1", "removed": true}}}'
wait_for "$patience" "ca1 to be refused" is_refused
stop serial1 serial2 serial3
start serial2
wait_for "$patience" "serial2" replica_takes "$net.2:7400" kds-cli --timeout 5 serial show --local
expect 3 replica_takes "$net.2:7400" as_ca serial show --local

say "a replica that was removed loses its streams to the others, and gets them back"
start serial1 serial3
wait_for "$patience" "three replicas" kds-cli --timeout 5 cluster health
reachable() { # ID yes|NO: as replica 2 sees it
	[ "$(replica_takes "$net.2:7400" kds-cli --timeout 5 cluster view | awk -v id="$1" '$1 == id { print $4 }')" = "$2" ]
}
wait_for "$patience" "serial3 to be reachable" reachable 3 yes
expect 0 kds-cli service remove serial3
wait_for "$patience" "serial3 to be cut off" reachable 3 NO
expect 0 kds-cli service restore serial3
wait_for "$patience" "serial3 to be back" reachable 3 yes
