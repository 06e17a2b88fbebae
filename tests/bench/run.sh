#!/usr/bin/env bash
# Benchmarks: figures and ratios from one run. They compare with bare GnuTLS, with etcd and, given --yardstick DIR, with
# prototypes that have neither envelope nor clients (DIR has spserver2.c, raftstep.c, engine.c, engine.h).
# Figures of different runs do not compare: machines differ from hour to hour. Nothing here is asserted.
set -eu

usage() {
	cat <<-END
	usage: tests/bench/run.sh [--yardstick DIR] [--seconds N] [--rounds N] [--records N] [--entries N]
	       [NAME...]

	Names: echo connect commit read sign memory (default: these), and
	  etcd      puts, linearizable reads and CPU beside Debian's etcd, which it fetches (not installed)
	  watch     what 1,000 watchers of the configuration cost the leader
	  failover  how long clients wait when the leader is killed, stopped, cut off or told to end
	  records   start, memory, disk and commits of replicas that hold many records
	  away      memory and disk while a follower is stopped, and how long it takes to catch up
	Builds release (build/) first. Runs on loopback; its data lies under TMPDIR (default /tmp).
	  --seconds N   of each measurement (4)
	  --rounds N    where two systems take turns (3)
	  --records N   for records (1000000)
	  --entries N   of the log, for away (1000000)
	END
}

top=$(cd "$(dirname "$0")/../.." && pwd)
bin=$top/build/bin bench=$top/build/bench
net=${KDS_BENCH_NET:-127.30.0}
yardstick= seconds=4 rounds=3 records=1000000 entries=1000000 names=()
while [ $# -gt 0 ]; do
	case $1 in
	--yardstick) yardstick=$(cd "$2" && pwd); shift ;;
	--seconds) seconds=$2; shift ;;
	--rounds) rounds=$2; shift ;;
	--records) records=$2; shift ;;
	--entries) entries=$2; shift ;;
	-h | --help) usage; exit 0 ;;
	-*) usage >&2; exit 2 ;;
	*) names+=("$1") ;;
	esac
	shift
done
[ ${#names[@]} -gt 0 ] || names=(echo connect commit read sign memory)

work=$(mktemp -d "${TMPDIR:-/tmp}/kds-bench.XXXXXX")
pids=()
finish() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	wait 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

cluster=bench.example.com kds_name=key.bench.example.com
c=$work/cluster hosts=$net. # of the replicas: an address begins so, the replica's number follows
# What every benchmark program needs to know: whose certificate, and the CA.
as() { printf '%s\n' "$c/$1/service.crt" "$c/$1/service.key" "$c/$1/infra-ca.crt"; }
field() { sed -n "s/.*\b$1=\([0-9.]*\).*/\1/p"; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.2f", a / b; else print "-" }'; }
row() { printf '%-34s %12s %12s %8s  %s\n' "$@"; }

start() { # NAME COMMAND...: in the background, output in a file of its own
	local name=$1
	shift
	"$@" >"$work/$name.log" 2>&1 &
	pids+=($!)
	printf '%s' $! >"$work/$name.pid"
}

stop() { # NAME: exactly that one
	local pid
	pid=$(cat "$work/$1.pid")
	kill "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
}

start_cluster() {
	"$bin/kds-cli" init --cluster $cluster --kds-name $kds_name --dir "$c" \
		--replicas $net.1,$net.2,$net.3 --ca-host $net.4 --keydist-host $net.4 >/dev/null
	export KDS_CONFIG=$c/admin/cli.conf
	local i
	for i in 1 2 3; do # watchers are one service's, many more than it needs
		echo 'max-connections-per-service = 9000' >>"$c/serial$i/kds-serial.conf"
	done
	for i in 1 2 3; do start serial$i "$bin/kds-serial" --config "$c/serial$i/kds-serial.conf"; done
	start ca1 "$bin/kds-ca" --config "$c/ca1/kds-ca.conf"
	start keydist1 "$bin/kds-keydist" --config "$c/keydist1/kds-keydist.conf"
	for ((i = 0; i < 100; i++)); do
		{ "$bin/kds-cli" --timeout 2 ca show || "$bin/kds-cli" --timeout 2 ca create; } >/dev/null 2>&1 &&
			"$bin/kds-cli" --timeout 2 -q cluster health >/dev/null 2>&1 && return
		sleep 0.2
	done
	"$bin/kds-cli" cluster health || true
	tail -n 3 "$work"/*.log >&2
	exit 1
}

# Clock ticks of CPU that these have used so far: cpu_ticks NAME...
cpu_ticks() {
	local name
	for name; do cat "/proc/$(cat "$work/$name.pid")/stat"; done | awk '{ n += $14 + $15 } END { print n }'
}

leader() { # RPC address of the leader
	local id
	id=$("$bin/kds-cli" --config "$c/admin/cli.conf" --timeout 2 cluster view 2>/dev/null |
		sed -n 's/.*Replica \([0-9]*\) leads.*/\1/p')
	echo "$hosts$id:7400"
}

# A load on the leader, as kds-ca: load OPERATION IN_FLIGHT SECONDS [ARGUMENTS]
load() {
	local operation=$1
	shift
	# shellcheck disable=SC2046
	"$bench/bench-load" "$operation" "$(leader)" $cluster $kds_name $(as ca1) "$@"
}

# The prototypes, built and given certificates in a directory of their own.
build_yardstick() {
	[ -n "$yardstick" ] && [ ! -d "$work/yard" ] || return 0
	mkdir "$work/yard"
	gcc -O2 -w -o "$work/yard/echo" "$yardstick/spserver2.c" -I"$yardstick" -lnng -lgnutls -lpthread
	gcc -O2 -w -o "$work/yard/raft" "$yardstick/raftstep.c" "$yardstick/engine.c" -I"$yardstick" \
		-lnng -lgnutls -lraft -luv -lsqlite3 -lpthread
	cp "$c/serial1/infra-ca.crt" "$work/yard/ca.crt"
	# raftstep's peers ask for this name.
	(cd "$work/yard" && openssl ecparam -name prime256v1 -genkey -noout -out root.key &&
		openssl req -x509 -new -key root.key -subj /CN=yardstick -days 2 -out ca.crt &&
		for who in srv cli; do
			openssl ecparam -name prime256v1 -genkey -noout -out $who.key
			openssl req -new -key $who.key -subj "/CN=$who" -out $who.csr
			openssl x509 -req -in $who.csr -CA ca.crt -CAkey root.key -CAcreateserial -days 2 -out $who.crt \
				-extfile <(echo "subjectAltName=DNS:key.example.org")
		done) 2>/dev/null
}

# The same client program against ours and the yardstick.
bench_echo() {
	local shape n w ours bare
	for shape in "4 1" "4 32" "1 512"; do
		read -r n w <<<"$shape"
		# shellcheck disable=SC2046
		ours=$("$bench/bench-wire" echo $net.4:7410 $(as serial1) rpc "$n" "$w" "$seconds" | field rate)
		bare=-
		if [ -n "$yardstick" ]; then
			(cd "$work/yard" && PRIO=NORMAL:-VERS-ALL:+VERS-TLS1.3 exec ./echo tcp://$net.5:7390) >/dev/null 2>&1 &
			pids+=($!)
			local pid=$!
			sleep 0.5
			bare=$("$bench/bench-wire" echo $net.5:7390 "$work"/yard/{cli.crt,cli.key,ca.crt} raw "$n" "$w" "$seconds" |
				field rate)
			kill $pid
			wait $pid 2>/dev/null || true
		fi
		row "echo, $n connections x $w" "$ours/s" "$bare/s" "$(ratio "$ours" "${bare/-/0}")" "of a raw SP echo without envelope"
	done
}

bench_connect() {
	local ours bare
	# shellcheck disable=SC2046
	start bare "$bench/bench-wire" serve $net.6:7391 $(as serial2)
	sleep 0.5
	# shellcheck disable=SC2046
	bare=$("$bench/bench-wire" connect $net.6:7391 $(as serial1) bare 4 2000 | field rate)
	stop bare
	# shellcheck disable=SC2046
	ours=$("$bench/bench-wire" connect $net.4:7410 $(as serial1) rpc 4 2000 | field rate)
	row "connect and one request" "$ours/s" "$bare/s" "$(ratio "$ours" "$bare")" "of bare mutual TLS 1.3 handshakes"
}

bench_commit() {
	local w line ours bare i
	for w in 1 32 512; do
		bare=-
		if [ -n "$yardstick" ]; then
			rm -rf "$work"/yard/s?.db*
			local mine=()
			for i in 1 2 3; do
				(cd "$work/yard" && exec ./raft $i $w) >"$work/yard/out.$i" 2>/dev/null &
				mine+=($!)
			done
			pids+=("${mine[@]}")
			sleep 8
			kill "${mine[@]}"
			wait "${mine[@]}" 2>/dev/null || true
			bare=$(cat "$work"/yard/out.? | sed -n 's/.*commit\/s \([0-9]*\).*/\1/p' | sort -n |
				awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }')
		fi
		line=$(load allocate $w "$seconds")
		ours=$(field rate <<<"$line")
		row "commit, $w in flight" "$ours/s" "$bare/s" "$(ratio "$ours" "${bare/-/0}")" \
			"of replication without clients; p50 $(field p50 <<<"$line") us, p99 $(field p99 <<<"$line") us"
	done
}

follower() { # RPC address of a replica that does not lead
	if [ "$(leader)" = $net.1:7400 ]; then echo $net.2:7400; else echo $net.1:7400; fi
}

bench_read() {
	local w line at
	for w in 1 32 512; do
		line=$(load show $w "$seconds")
		at=$(field rate <<<"$line")
		row "linearizable read, $w in flight" "$at/s" - - \
			"p50 $(field p50 <<<"$line") us, p99 $(field p99 <<<"$line") us"
		# shellcheck disable=SC2046
		line=$("$bench/bench-load" show "$(follower)" $cluster $kds_name $(as ca1) $w "$seconds")
		row "the same at a follower" "$(field rate <<<"$line")/s" "$at/s" "$(ratio "$(field rate <<<"$line")" "$at")" \
			"of the leader; p50 $(field p50 <<<"$line") us, p99 $(field p99 <<<"$line") us"
	done
}

bench_sign() {
	local line ours bare
	"$bin/kds-cli" node add node1.$cluster >/dev/null 2>&1 || true
	"$bin/kds-cli" cert request --name node1.$cluster --key "$work/node1.key" --out "$work/node1.csr" >/dev/null 2>&1
	bare=$("$bench/bench-crypto" "$work/node1.csr" "$seconds" | field rate)
	line=$("$bench/bench-load" sign $net.4:7410 $cluster $kds_name \
		"$c/admin/admin.crt" "$c/admin/admin.key" "$c/admin/infra-ca.crt" 32 "$seconds" "$work/node1.csr" node1.$cluster)
	ours=$(field rate <<<"$line")
	row "certificates from CSR, 32 in flight" "$ours/s" "$bare/s" "$(ratio "$ours" "$bare")" \
		"of bare GnuTLS, nothing replicated; p50 $(field p50 <<<"$line") us, p99 $(field p99 <<<"$line") us"
}

bench_memory() {
	local name kib
	for name in serial1 serial2 serial3 ca1 keydist1; do
		kib=$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$(cat "$work/$name.pid")/status")
		row "resident memory, $name" "$(awk -v k="$kib" 'BEGIN { printf "%.1f MiB", k / 1024 }')" - - "$1"
	done
}

# shellcheck source=tests/bench/etcd.sh
. "$top/tests/bench/etcd.sh"
# shellcheck source=tests/bench/watch.sh
. "$top/tests/bench/watch.sh"
# shellcheck source=tests/bench/failover.sh
. "$top/tests/bench/failover.sh"
# shellcheck source=tests/bench/records.sh
. "$top/tests/bench/records.sh"
# shellcheck source=tests/bench/away.sh
. "$top/tests/bench/away.sh"

"$top/deploy/install-deps.sh"
cmake --preset release -S "$top" >/dev/null
cmake --build "$top/build" -j "$(nproc)" >/dev/null
start_cluster
build_yardstick
case " ${names[*]} " in # the others print their own
*" echo "* | *" connect "* | *" commit "* | *" read "* | *" sign "* | *" memory "*)
	row benchmark KDS yardstick ratio "what the ratio compares" ;;
esac
[[ " ${names[*]} " != *" memory "* ]] || bench_memory "idle, fresh"
for name in "${names[@]}"; do
	case $name in
	echo | connect | commit | read | sign | etcd | failover | records | away | watch) bench_$name ;;
	memory) bench_memory "after the above" ;;
	*) usage >&2; exit 2 ;;
	esac
done
