# shellcheck shell=bash disable=SC2154
# For run.sh: how long clients wait when the leader goes, under load (32 requests in flight, a client for each replica).
# first: from the event to the first success of a request that began after it; all: until every client had one; gap: the
# longest time without any success. Milliseconds; median and worst of $failover_rounds.
failover_rounds=${KDS_BENCH_ROUNDS:-10}

leader_id() { "$bin/kds-cli" --timeout 20 cluster view | sed -n 's/.*Replica \([0-9]*\) leads.*/\1/p'; }

tell() { # COMMAND: to the load; its answer is in $told
	echo "$1" >&"${load[1]}"
	read -r told <&"${load[0]}" || { echo "the load ended" >&2; exit 1; }
}

median_and_worst() { # FIELD FILE
	field "$1" <"$2" | sort -n | awk '{ a[NR] = $1 } END { printf "%.0f / %.0f ms", a[int((NR + 1) / 2)], a[NR] }'
}

# Connections between replicas go through a relay, once there is one: to port 20001 for replica 1's, and so on.
start_serial() {
	local preload=()
	[ ! -e "$work/relay" ] || preload=(env "LD_PRELOAD=$top/build/tests/fault_shim.so" "KDS_SHIM_CONNECT=7401=2000$1")
	start "serial$1" "${preload[@]}" "$bin/kds-serial" --config "$c/serial$1/kds-serial.conf"
}

start_relay() {
	local from to links=()
	for from in 1 2 3; do
		stop serial$from
		for to in 1 2 3; do
			[ $from = $to ] || links+=("$from:$to:$net.$to:2000$from:$net.$to:7401")
		done
	done
	start relay python3 "$top/tests/support/relay.py" "$work/relay" "${links[@]}"
	until grep -q ready "$work/relay.log"; do sleep 0.1; done
	for from in 1 2 3; do start_serial $from; done
}

failover_event() { # KIND LEADER
	local pid
	pid=$(cat "$work/serial$2.pid")
	case $1 in
	kill-9 | SIGTERM)
		tell "signal $pid $([ "$1" = kill-9 ] && echo 9 || echo 15)"
		echo "$told" >>"$work/failover.$1"
		wait "$pid" 2>/dev/null || true
		start_serial "$2"
		;;
	SIGSTOP)
		tell "signal $pid 19"
		echo "$told" >>"$work/failover.$1"
		kill -CONT "$pid"
		;;
	partition) # nothing passes between the leader and the others; clients reach all three
		local other both=
		for other in 1 2 3; do
			[ "$other" = "$2" ] || both+="freeze $2 $other"$'\n'"freeze $other $2"$'\n'
		done
		printf '%s' "$both" >"$work/relay"
		tell mark
		echo "$told" >>"$work/failover.$1"
		echo heal >"$work/relay"
		;;
	esac
}

bench_failover() {
	local kind i
	stop ca1 # it takes serials of its own
	for kind in ${KDS_BENCH_FAILOVER:-kill-9 SIGTERM SIGSTOP partition}; do
		[ $kind != partition ] || start_relay
		# shellcheck disable=SC2046
		coproc load { exec "$top/build/tests/failover_load" $net.1:7400,$net.2:7400,$net.3:7400 $cluster $kds_name \
			$(as ca1) 32 channel; }
		local pid=$load_PID
		: >"$work/failover.$kind"
		for ((i = 0; i < failover_rounds; i++)); do
			tell "run 3000"
			failover_event $kind "$(leader_id)"
			tell "mark"
		done
		tell finish
		local end=$told
		wait "$pid" || true
		row "failover after $kind, first" "$(median_and_worst first "$work/failover.$kind")" - - "median / worst of $failover_rounds"
		row "failover after $kind, all clients" "$(median_and_worst all "$work/failover.$kind")" - - "$end"
		row "failover after $kind, gap" "$(median_and_worst gap "$work/failover.$kind")" - - "longest time without a success"
	done
}
