# shellcheck shell=bash
# A follower that is away while the others go on: their memory and disk meanwhile, and its way back. Sourced by run.sh.

# The index that a replica has applied, as the view has it: applied ID.
applied() {
	"$bin/kds-cli" --config "$c/admin/cli.conf" --timeout 5 cluster view 2>/dev/null |
		awk -v id="$1" '$1 == id && $6 ~ /^[0-9]+$/ { n = $6 } END { print n + 0 }'
}

# Resident memory and disk, the write-ahead log apart: size_of NAME...
size_of() {
	local name d
	for name; do
		d=$c/$name/data
		awk -v name="$name" -v disk="$(du -sm --exclude='*-wal' "$d" | cut -f1)" -v wal="$(du -m "$d/replica.db-wal" | cut -f1)" '
			/^VmRSS:/ { printf "%s %.1f MiB resident, %d MiB on disk + %d MiB WAL; ", name, $2 / 1024, disk, wal }' \
			"/proc/$(cat "$work/$name.pid")/status"
	done
}

bench_away() {
	local lead away other first done=0 next=0 began seconds_away target
	lead=$(leader)
	lead=${lead#"$hosts"}
	lead=${lead%%:*}
	away=$((lead % 3 + 1))
	other=$((away % 3 + 1))
	echo "replica $away goes; serial$lead leads. Before: $(size_of serial1 serial2 serial3)"
	stop serial$away
	first=$(applied "$lead")
	# shellcheck disable=SC2046
	start load "$bench/bench-load" allocate "$(leader)" $cluster $kds_name $(as ca1) 512 86400
	began=$SECONDS
	while [ $done -lt "$entries" ]; do
		if [ $done -ge $next ]; then
			echo "$done entries later: $(size_of serial$lead serial$other)"
			next=$((next + entries / 5))
		fi
		kill -0 "$(cat "$work/load.pid")" || { tail -n 3 "$work"/*.log >&2; exit 1; }
		sleep 1
		done=$(($(applied "$lead") - first))
	done
	stop load
	seconds_away=$((SECONDS - began))
	echo "$done entries later, after $seconds_away s: $(size_of serial$lead serial$other)"
	target=$(applied "$lead")
	began=$(date +%s%N)
	start serial$away "$bin/kds-serial" --config "$c/serial$away/kds-serial.conf"
	while [ "$(applied $away)" -lt "$target" ]; do
		kill -0 "$(cat "$work/serial$away.pid")" || { tail -n 3 "$work/serial$away.log" >&2; exit 1; }
		sleep 0.1
	done
	echo "replica $away has them $((($(date +%s%N) - began) / 1000000)) ms after its start: $(size_of serial1 serial2 serial3)"
}
