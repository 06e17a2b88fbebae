#!/usr/bin/env bash
# A server that presents a key that costs (impostor.c), in the place of a replica: kds-cli, other replicas and kds-ca, which dial
# it again and again, spend next to nothing on it.
# ctest: timeout=300
. "$(dirname "$0")/../integration/lib.sh"
count=${KDS_TEST_COUNT:-${sanitized:+50}}
count=${count:-500}
each_max_ms=$((sanitized ? 1000 : 60)) # of kds-cli: a process, its keys and one handshake
share_max=$((sanitized ? 100 : 25))    # percent of one CPU that a daemon may use, dialling again and again
cluster_up 3
stop serial2
# This kds-ca knows no other replica.
stop ca1
cp "$(config_of ca1)" "$work/ca1.conf"
sed -i "s/^serial-addresses.*/serial-addresses = { \"$net.2:7400\" }/" "$(config_of ca1)"
grep -q "^serial-addresses = { \"$net.2:7400\" }" "$(config_of ca1)" || fail "the configuration of ca1 has no serial-addresses"
start ca1

cpu_ms() { awk '{ sub(/.*\) /, ""); print ($12 + $13) * 10 }' "/proc/${pid_of[$1]}/stat"; }

# CPU time of kds-cli, mean of N calls, which must all fail: cli_ms N
cli_ms() {
	python3 - "$1" kds-cli --timeout 5 call Health.Check --address "$net.2:7400" <<'END'
import resource, subprocess, sys
n = int(sys.argv[1])
for i in range(n):
    if subprocess.run(["timeout", "30"] + sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
        sys.exit("an impostor was believed")
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(round((used.ru_utime + used.ru_stime) * 1000 / n))
END
}

failed=
check() { # WHAT LIMIT ACTUAL UNIT
	[ "$3" -le "$2" ] || failed+=" $1: $3 $4 (at most $2);"
}
meet() { # VERSION CHAIN: the impostor in place of serial2
	local version=$1 chain=$2 first many name share began term_before term_after line=
	local -A before=()
	"$tests/impostor" "$cluster/admin/infra-ca.crt" "$chain" "$version" "$net.2:7400" "$net.2:7401" >"$work/impostor.out" \
		2>"$work/impostor.log" &
	pid_of[impostor]=$!
	wait_for "$patience" "the impostor" grep -q ready "$work/impostor.out"
	term_before=$(kds-cli --json --timeout 20 cluster view | json term)
	began=$(date +%s%3N)
	for name in serial1 serial3 ca1; do
		before[$name]=$(cpu_ms $name)
	done
	sleep 4
	for name in serial1 serial3 ca1; do
		share=$((($(cpu_ms $name) - ${before[$name]}) * 100 / ($(date +%s%3N) - began)))
		line+="$name $share % of a CPU, "
		check "$name (TLS $version, chain $chain)" $share_max $share "% of a CPU"
	done
	first=$(cli_ms 1) || fail "an impostor was believed"
	many=$first
	[ "$first" -gt 1000 ] || many=$(cli_ms $((count / 10 + 1))) || fail "an impostor was believed"
	check "kds-cli (TLS $version, chain $chain)" $each_max_ms "$many" "ms of CPU"
	kill "${pid_of[impostor]}"
	reap impostor || fail "the impostor ended with an error"
	say "TLS $version, chain $chain: ${line}kds-cli $many ms of CPU each; $(grep -c signed "$work/impostor.out") handshakes"
	grep -q signed "$work/impostor.out" || fail "no handshake came as far as the key"
	wait_for "$patience" "a leader" has_leader
	term_after=$(kds-cli --json --timeout 20 cluster view | json term)
	[ "$term_before" = "$term_after" ] || failed+=" the leader went (TLS $version, chain $chain);"
}
for version in 1.3 1.2; do
	for chain in 0 1 2; do
		meet $version $chain
	done
done
[ -z "$failed" ] || fail "a key that nobody vouches for costs:$failed"

say "and the cluster still works"
stop ca1
cp "$work/ca1.conf" "$(config_of ca1)"
start ca1 serial2
wait_healthy
