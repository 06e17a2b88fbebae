# shellcheck shell=bash
# etcd beside kds-serial: three members each, mutual TLS, the same disk, rounds in turn (KDS, etcd, KDS, ...) so that what
# else the machine does meets both. Each load goes to the leader. Sourced by run.sh.

# Debian's etcd; unpacked, not installed: its package would start a daemon of its own.
get_etcd() {
	"$top/deploy/install-deps.sh" --bench
	cmake --preset release -S "$top" >/dev/null # which may not have seen libnghttp2 before
	cmake --build "$top/build" -j "$(nproc)" --target bench-etcd >/dev/null
	etcd=$(command -v etcd || echo "$top/build/etcd/usr/bin/etcd")
	[ ! -x "$etcd" ] || return 0
	mkdir -p "$top/build/etcd"
	(cd "$top/build/etcd" && apt-get -q download etcd-server >/dev/null && dpkg -x etcd-server_*.deb .) || {
		echo "run.sh: cannot get Debian's package etcd-server: see above (apt-get update?)" >&2
		exit 1
	}
}

make_etcd_certificates() {
	local i
	mkdir "$work/etcd"
	(cd "$work/etcd" && openssl ecparam -name prime256v1 -genkey -noout -out ca.key &&
		openssl req -x509 -new -key ca.key -subj /CN=etcd -days 2 -out ca.crt &&
		for i in 1 2 3; do
			openssl ecparam -name prime256v1 -genkey -noout -out $i.key
			openssl req -new -key $i.key -subj /CN=etcd$i -out $i.csr
			openssl x509 -req -in $i.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out $i.crt \
				-extfile <(echo "subjectAltName=IP:$net.1$i,IP:127.0.0.1") # etcd also looks where a peer calls from
		done) 2>"$work/openssl.log"
}

start_etcd() {
	local i d=$work/etcd members
	get_etcd
	make_etcd_certificates
	members=etcd1=https://$net.11:2380,etcd2=https://$net.12:2380,etcd3=https://$net.13:2380
	for i in 1 2 3; do
		start etcd$i "$etcd" --name etcd$i --data-dir "$d/$i.data" --initial-cluster $members --logger zap \
			--listen-peer-urls https://$net.1$i:2380 --initial-advertise-peer-urls https://$net.1$i:2380 \
			--listen-client-urls https://$net.1$i:2379 --advertise-client-urls https://$net.1$i:2379 \
			--listen-metrics-urls http://$net.1$i:2381 --cert-file $d/$i.crt --key-file $d/$i.key --client-cert-auth \
			--trusted-ca-file $d/ca.crt --peer-cert-file $d/$i.crt --peer-key-file $d/$i.key --peer-client-cert-auth \
			--peer-trusted-ca-file $d/ca.crt
	done
	for ((i = 0; i < 100; i++)); do
		[ -z "$(etcd_leader)" ] || return 0
		sleep 0.2
	done
	tail -n 3 "$work"/etcd?.log >&2
	exit 1
}

etcd_leader() { # its client address
	local i
	for i in 1 2 3; do
		(exec 3<>/dev/tcp/$net.1$i/2381 && printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3 &&
			grep -q '^etcd_server_is_leader 1' <&3) 2>/dev/null && echo "$net.1$i:2379" && return
	done
}

# Seconds of CPU for 1,000 operations: TICKS LINE, where LINE is what a load program printed.
cpu_of() { awk -v t="$1" -v n="$(field total <<<"$2")" -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.4f", t / hz * 1000 / n }'; }

# versus_etcd WHAT IN_FLIGHT OPERATION ARGUMENTS -- OPERATION ARGUMENTS: rounds of ours, then of etcd's; prints medians,
# and of the rounds' ratios the median.
versus_etcd() {
	local what=$1 w=$2 ours=() theirs=() before line i
	shift 2
	while [ "$1" != -- ]; do
		ours+=("$1")
		shift
	done
	shift
	theirs=("$@")
	: >"$work/rounds"
	for ((i = 0; i < rounds; i++)); do
		before=$(cpu_ticks serial1 serial2 serial3)
		line=$(load "${ours[0]}" "$w" "$seconds" "${ours[@]:1}")
		echo "$(field rate <<<"$line") $(field p50 <<<"$line") $(field p99 <<<"$line")" \
			"$(cpu_of $(($(cpu_ticks serial1 serial2 serial3) - before)) "$line")" >>"$work/rounds"
		before=$(cpu_ticks etcd1 etcd2 etcd3)
		line=$("$bench/bench-etcd" "${theirs[0]}" "$(etcd_leader)" "$work"/etcd/{1.crt,1.key,ca.crt} "$w" "$seconds" \
			"${theirs[@]:1}")
		echo "$(field rate <<<"$line") $(field p50 <<<"$line") $(field p99 <<<"$line")" \
			"$(cpu_of $(($(cpu_ticks etcd1 etcd2 etcd3) - before)) "$line")" >>"$work/rounds"
	done
	awk -v what="$what, $w in flight" '
		function median(a, n,   i, j, t) {
			for (i = 2; i <= n; i++) for (j = i; j > 1 && a[j - 1] > a[j]; j--) { t = a[j]; a[j] = a[j - 1]; a[j - 1] = t }
			return a[int((n + 1) / 2)]
		}
		function column(c, odd,   a, n, i) { # of the odd (ours) or even (theirs) lines
			for (i = odd ? 1 : 2; i <= NR; i += 2) a[++n] = v[i, c]
			return median(a, n)
		}
		function ratio(c,   a, n, i) {
			for (i = 1; i < NR; i += 2) a[++n] = v[i + 1, c] > 0 ? v[i, c] / v[i + 1, c] : 0
			return median(a, n)
		}
		{ for (c = 1; c <= NF; c++) v[NR, c] = $c + 0 }
		END {
			printf "%-50s %9d/s %9d/s %7.2f   p50 %.2f : %.2f ms; p99 %.2f : %.2f ms, ratio %.2f; ", what,
				column(1, 1), column(1, 0), ratio(1), column(2, 1) / 1000, column(2, 0) / 1000,
				column(3, 1) / 1000, column(3, 0) / 1000, ratio(3)
			printf "CPU s/1000 %.3f : %.3f, ratio %.2f\n", column(4, 1), column(4, 0), ratio(4)
		}' "$work/rounds"
}

bench_etcd() {
	local w
	start_etcd
	printf '%-50s %11s %11s %7s   %s\n' "kds-serial : etcd, $rounds rounds" KDS etcd ratio \
		"KDS : etcd; ratios are medians of the rounds'; CPU of the three servers"
	for w in 1 32 512; do versus_etcd "put (a serial number)" $w allocate -- put; done
	for w in 32 512; do versus_etcd "linearizable read" $w show -- get; done
	# A record takes about as many bytes.
	for w in 1 32; do versus_etcd "100 records : 100 puts of 150 bytes" $w record 100 4000000 -- txn 100 150; done
	for w in 1 2 3; do stop etcd$w; done
}
