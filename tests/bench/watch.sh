# shellcheck shell=bash disable=SC2154
# For run.sh: what watchers of the configuration cost the replica that they ask, which leads: memory for each, and the
# commits of others while they wait and while they are told of changes. All in one run, on one machine.
watch_count=${KDS_BENCH_WATCHERS:-1000} # as many as one identity may have

resident_kib() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$(cat "$work/$1.pid")/status"; }

# What changes while they watch: a setting, five times a second, until the file is gone.
keep_changing() { # FILE
	local i=0
	while [ -e "$1" ]; do
		"$bin/kds-cli" -q config set site.bench $((i += 1)) >/dev/null 2>&1 || true
		echo $i >"$1.count"
		sleep 0.2
	done
}

watch_load() { # WHAT BASE_RATE WHY
	# shellcheck disable=SC2046
	line=$("$bench/bench-load" allocate "$(leader)" $cluster $kds_name $(as ca1) 32 "$seconds")
	row "$1" "$(field rate <<<"$line")/s" "${2:--}" "$(ratio "$(field rate <<<"$line")" "${2:-0}")" \
		"${3:+$3; }p50 $(field p50 <<<"$line") us, p99 $(field p99 <<<"$line") us"
}

bench_watch_with() { # CONNECTIONS WATCHES_EACH
	local name address before after base line told n=$(($1 * $2))
	address=$(leader)
	name=serial${address%:*}
	name=serial${name##*.}
	watch_load "commit, nobody watches" "" ""
	base=$(field rate <<<"$line")
	before=$(resident_kib "$name")
	# shellcheck disable=SC2046
	coproc watch_proc { "$bench/bench-watch" "$address" $cluster $kds_name $(as keydist1) "$1" "$2"; }
	pids+=("$watch_proc_PID")
	read -r told <&"${watch_proc[0]}" || return 1
	after=$(resident_kib "$name")
	row "watchers, $1 connections x $2" "$n" - - "$(awk -v a="$after" -v b="$before" -v n=$n \
		'BEGIN { printf "%.1f KiB each, %.1f MiB in all", (a - b) / n, (a - b) / 1024 }')"
	watch_load "commit, all wait" "$base" "of nobody watching"
	touch "$work/changing"
	keep_changing "$work/changing" &
	local changing=$!
	watch_load "commit, all told of changes" "$base" "of nobody watching"
	rm "$work/changing"
	wait "$changing" || true
	exec {watch_proc[1]}>&-
	read -r told <&"${watch_proc[0]}" || return 1
	row "changes" "$(cat "$work/changing.count")" - - "$told; $(awk -v k="$(resident_kib "$name")" \
		'BEGIN { printf "%.1f MiB", k / 1024 }') resident afterwards"
	wait "$watch_proc_PID" 2>/dev/null || true
}

bench_watch() {
	stop ca1 # it takes serials of its own
	bench_watch_with "$watch_count" 1
	bench_watch_with $((watch_count / 100)) 100
}
