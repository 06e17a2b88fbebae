# shellcheck shell=bash
# Replicas that hold many records beside such that hold few: commits, memory, disk, time to start. Sourced by run.sh.

# A second cluster of replicas alone, on $net.21 to .23.
start_full() {
	local i
	c=$work/full
	"$bin/kds-cli" init --cluster $cluster --kds-name $kds_name --dir "$c" \
		--replicas $net.21,$net.22,$net.23 --ca-host $net.24 --keydist-host $net.24 >/dev/null
	for i in 1 2 3; do start full$i "$bin/kds-serial" --config "$c/serial$i/kds-serial.conf"; done
	for ((i = 0; i < 100; i++)); do
		[ "$(leader)" = "$hosts:7400" ] || return 0
		sleep 0.1
	done
	tail -n 3 "$work"/full?.log >&2
	exit 1
}

# How big the processes NAME1 to NAME3 and their data are.
sizes() {
	local i
	for i in 1 2 3; do
		awk -v name="$1$i" -v disk="$(du -sm "$c/serial$i/data" | cut -f1)" '
			/^VmRSS:/ { rss = $2 } /^VmHWM:/ { peak = $2 }
			END { printf "%s: %.1f MiB resident (%.1f at most), %d MiB on disk; ", name, rss / 1024, peak / 1024, disk }' \
			"/proc/$(cat "$work/$1$i.pid")/status"
	done
	echo
}

# One measurement in the cluster at $c and $hosts: its rate.
rate_of() { load "$@" | field rate; }

# Rounds of the two clusters in turn: versus_empty WHAT OPERATION IN_FLIGHT [ARGUMENTS].
versus_empty() {
	local what=$1 empty=() full=() i
	shift
	for ((i = 0; i < rounds; i++)); do
		empty+=("$(c=$work/cluster hosts=$net. && rate_of "$@")")
		full+=("$(rate_of "$@")")
	done
	paste <(printf '%s\n' "${full[@]}") <(printf '%s\n' "${empty[@]}") | awk -v what="$what" '
		{ print $1, $2, $1 / $2 }' | sort -n -k3 | awk -v what="$what" '
		{ full[NR] = $1; empty[NR] = $2; r[NR] = $3 }
		END { m = int((NR + 1) / 2); printf "%-50s %9d/s %9d/s %7.2f   of a state that was empty\n", what, full[m], empty[m], r[m] }'
}

# Stops a replica and starts it again: how long from there until it serves. Not in a subshell, whose child it would be.
restart() {
	local began
	stop full$1
	began=$(date +%s%N)
	start full$1 "$bin/kds-serial" --config "$c/serial$1/kds-serial.conf"
	until grep -q ' ready ' "$work/full$1.log"; do
		kill -0 "$(cat "$work/full$1.pid")" || { tail -n 3 "$work/full$1.log" >&2; exit 1; }
		sleep 0.01
	done
	echo "replica $1 started in $((($(date +%s%N) - began) / 1000000)) ms"
}

bench_records() {
	local c hosts=$net.2 line i
	start_full
	line=$(load record 4 86400 4096 "$records")
	echo "$records records in requests of 4,096: $(field rate <<<"$line")/s; $(sizes full)"
	versus_empty "serial numbers, 32 in flight" allocate 32 "$seconds"
	versus_empty "records one a request, 32 in flight" record 32 "$seconds" 1 500000
	versus_empty "records 100 a request, 4 in flight" record 4 "$seconds" 100 2000000
	echo "after that: $(sizes full)"
	for i in 1 2 3; do restart $i; done
	sleep 2
	echo "after the starts: $(sizes full)"
	for i in 1 2 3; do stop full$i; done
}
