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

start_serial() { start "serial$1" "$bin/kds-serial" --config "$c/serial$1/kds-serial.conf"; }

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
	esac
}

bench_failover() {
	local kind i
	stop ca1 # it takes serials of its own
	for kind in ${KDS_BENCH_FAILOVER:-kill-9 SIGTERM SIGSTOP}; do
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
