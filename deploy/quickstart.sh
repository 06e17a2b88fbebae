#!/usr/bin/env bash
# A whole KDS cluster on this machine: installs, builds, starts it, does its main job with real requests, says how to go on.
set -eu

usage() {
	cat <<-END
	usage: deploy/quickstart.sh [--dir DIR] [--replicas N] [--net A.B] [--bin DIR] [--stop] [--no-install]

	  --dir DIR      where the cluster lives (default ./quickstart); must be new, empty, or made by this script
	  --replicas N   1 to 7 replicas of kds-serial (default 3)
	  --net A.B      use addresses A.B.1.1 and so on for the replicas, A.B.0.1 for the others (default 127.0)
	  --bin DIR      use the programs in DIR instead of building them
	  --stop         end what this script started, by process id
	  --no-install   install no packages

	Run again it starts what is not running and does the main job once more, on the addresses of before.
	END
}

fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }
bad_usage() { printf 'quickstart: %s\n' "$*" >&2; usage >&2; exit 2; }

source=$(cd "$(dirname "$0")/.." && pwd)
dir=quickstart replicas='' net='' bin=$source/build/bin
stop='' install=1 build=1
while [ $# -gt 0 ]; do
	case $1 in
	--dir | --replicas | --net | --bin)
		[ $# -ge 2 ] || bad_usage "$1 needs a value"
		case $1 in
		--dir) dir=$2 ;;
		--replicas) replicas=$2 ;;
		--net) net=$2 ;;
		--bin) bin=$2 build='' ;;
		esac
		shift 2
		;;
	--stop) stop=1; shift ;;
	--no-install) install=''; shift ;;
	-h | --help) usage; exit 0 ;;
	*) bad_usage "unknown argument '$1'" ;;
	esac
done
[[ ${replicas:-3} =~ ^[1-7]$ ]] || bad_usage "--replicas takes 1 to 7"
[[ ${net:-127.0} =~ ^127\.[0-9]{1,3}$ ]] || bad_usage "--net takes a loopback block like 127.0"
[[ $dir == /* ]] || dir=$PWD/$dir
[[ $bin == /* ]] || bin=$PWD/$bin
dir=${dir%/}

# --- processes --------------------------------------------------------------------------------------------------------------

# The daemons of a cluster of so many replicas, in the order in which they start.
list_names() { # REPLICAS
	local i
	names=()
	for ((i = 1; i <= $1; i++)); do
		names+=("serial$i")
	done
	names+=(ca1 keydist1)
}

config_of() { printf '%s/%s/kds-%s.conf' "$dir" "$1" "${1%%[0-9]*}"; }

# The process id of a daemon that this script started and that still runs; a number that is another's by now is none.
pid_of() {
	local pid arguments
	pid=$(cat "$dir/run/$1.pid" 2>/dev/null) && [[ $pid =~ ^[0-9]+$ ]] || return 1
	mapfile -d '' -t arguments 2>/dev/null <"/proc/$pid/cmdline" || return 1
	[[ " ${arguments[*]} " == *" $(config_of "$1") "* ]] && echo "$pid"
}

start() {
	local program
	program=kds-${1%%[0-9]*}
	setsid "$bin/$program" --config "$(config_of "$1")" </dev/null >>"$dir/log/$1.log" 2>&1 &
	echo $! >"$dir/run/$1.pid"
	disown # it outlives this script, and its end is nothing for the shell to report
}

# Ends daemons in good order, the replicas last, as the others talk to them.
stop_all() {
	local name pid n=0 i
	for ((i = ${#names[@]} - 1; i >= 0; i--)); do
		name=${names[i]}
		if pid=$(pid_of "$name"); then
			kill -TERM "$pid"
			for _ in {1..150}; do
				pid_of "$name" >/dev/null || break
				sleep 0.1
			done
			if pid_of "$name" >/dev/null; then
				printf 'quickstart: %s (process %s) did not end within 15 s; killing it\n' "$name" "$pid" >&2
				kill -KILL "$pid"
			fi
			n=$((n + 1))
		fi
		rm -f "$dir/run/$name.pid"
	done
	printf 'quickstart: stopped %d processes of %s\n' "$n" "$dir"
}

# --- saying what happens ----------------------------------------------------------------------------------------------------

say() { printf '%-12s %s\n' "$1" "$2"; }

scratch=
trap '[ -z "$scratch" ] || rm -rf "$scratch"' EXIT

# Runs a command; when it fails, says which step it was, with the command's own words. Its output is in $out.
must() { # WHAT COMMAND...
	local what=$1
	shift
	out=$("$@" 2>"$scratch/err") || fail "$what: $(tail -n 1 "$scratch/err"); the daemons' logs are in $dir/log"
}

# The first value of a field of a JSON document on standard input.
field() { sed -n -E "s/.*\"$1\": *\"?([^\",}]*).*/\\1/p" | head -n 1; }

dead() { # prints the first daemon that runs no more
	local name
	for name in "${names[@]}"; do
		pid_of "$name" >/dev/null || { echo "$name"; return; }
	done
}

# Waits at most 60 s until a command succeeds, or a daemon has ended.
wait_until() { # WHAT COMMAND...
	local what=$1 end=$((SECONDS + 60)) name
	shift
	until "$@" >"$scratch/out" 2>&1; do
		name=$(dead)
		[ -z "$name" ] || fail "$name has ended: $(tail -n 1 "$dir/log/$name.log")"
		[ $SECONDS -lt $end ] || fail "$what: not within 60 s: $(tail -n 1 "$scratch/out"); the logs are in $dir/log"
		sleep 0.1
	done
}

# --- the steps --------------------------------------------------------------------------------------------------------------

build_programs() {
	local log=$scratch/build.log
	printf 'building in %s (the first time takes a minute or two)\n' "$source/build"
	if ! { cd "$source" && cmake --preset release && cmake --build --preset release -j "$(nproc)" --target \
		kds-serial kds-ca kds-keydist kds-cli; } >"$log" 2>&1; then
		tail -n 40 "$log" >&2
		fail "the build failed, see above"
	fi
}

# A cluster that was made before keeps its replicas and addresses.
choose_options() {
	local made_replicas=3 made_net=127.0
	if [ -e "$dir/run/quickstart" ]; then
		read -r made_replicas made_net <"$dir/run/quickstart"
		[ "${replicas:-$made_replicas} ${net:-$made_net}" = "$made_replicas $made_net" ] ||
			fail "$dir was made with other options (--replicas $made_replicas --net $made_net); leave them out, or give another --dir"
	fi
	replicas=${replicas:-$made_replicas} net=${net:-$made_net}
}

address_of() { # NAME: where it answers requests
	case $1 in
	serial*) echo "$net.1.${1#serial} 7400" ;;
	ca1) echo "$net.0.1 7410" ;;
	keydist1) echo "$net.0.1 7420" ;;
	esac
}

# Before anything is made: other processes on the addresses would leave a cluster that cannot start.
check_addresses() {
	local name host port other=127.88
	[ "$net" != $other ] || other=127.89
	for name in "${names[@]}"; do
		read -r host port <<<"$(address_of "$name")"
		pid_of "$name" >/dev/null || ! (: 3<>"/dev/tcp/$host/$port") 2>/dev/null ||
			fail "$host:$port, for $name, is in use by another process; stop that, or give --net $other and a new --dir"
	done
}

make_cluster() {
	local hosts='' i
	if [ -e "$dir/run/quickstart" ]; then
		say cluster "cluster.example.com, made before, in $dir"
		return
	fi
	for ((i = 1; i <= replicas; i++)); do
		hosts+=${hosts:+,}$net.1.$i
	done
	must "make the cluster's files" kds-cli init --cluster cluster.example.com --kds-name key.example.com --dir "$dir" \
		--replicas "$hosts" --ca-host "$net.0.1" --keydist-host "$net.0.1"
	mkdir -p "$dir/log" "$dir/run"
	echo "$replicas $net" >"$dir/run/quickstart"
	say cluster "cluster.example.com: infrastructure CA, certificates and configuration of each process, in $dir"
}

# For the user's shell; written each time, as the programs may be others than before.
write_env() {
	# shellcheck disable=SC2016
	{
		printf '# To be sourced: kds-cli for this cluster, as its administrator.\n'
		printf 'export PATH=%q:"$PATH"\n' "$bin"
		printf 'export KDS_CONFIG=%q\n' "$dir/admin/cli.conf"
	} >"$dir/env"
}

# Once: a cluster gets its CA because somebody asks for it. Asked again where an answer was lost.
have_authority() { kds-cli ca show >/dev/null 2>&1 || kds-cli ca create; }

start_all() {
	local name fresh=() view
	for name in "${names[@]}"; do
		if ! pid_of "$name" >/dev/null; then
			start "$name"
			fresh+=("$name")
		fi
	done
	say start "${fresh[*]:-nothing: all $((replicas + 2)) processes run already}"
	if ! kds-cli ca show >/dev/null 2>&1; then
		wait_until "kds-ca creates the cluster's CA" have_authority
		say ca "default: created, signs the nodes' certificates; its key leaves kds-ca only sealed"
	fi
	wait_until "the cluster becomes healthy" kds-cli cluster health
	must "ask for the quorum view" kds-cli --json cluster view
	view=$out
	say quorum "serial$(field leaderId <<<"$view") leads $replicas replica(s); kds-ca and kds-keydist answer"
}

add_node() { # NAME GROUP...
	local name=$1 groups=() group
	shift
	for group in "$@"; do
		groups+=(--group "$group")
	done
	if kds-cli node show "$name" >/dev/null 2>&1; then
		say node "$name is known already"
		return
	fi
	must "add $name" kds-cli node add "$name" "${groups[@]}"
	say node "$name added, groups $*"
}

# What happens on the node: its keys never leave it, only the requests do.
make_requests() { # FOLDER NAME
	local kind
	(umask 077 && mkdir -p "$dir/$1")
	for kind in node kds; do
		must "make $2's key and request" kds-cli cert request --name "$2" --key "$dir/$1/$kind.key" --out "$dir/$1/$kind.csr"
	done
}

# The administrator has a request signed; the certificate goes back to the node.
sign() { # FOLDER NAME KIND PROFILE
	must "sign $2's request" kds-cli cert sign "$dir/$1/$3.csr" --node "$2" --profile "$4"
	printf '%s\n' "$out" >"$dir/$1/$3.crt.new"
	mv "$dir/$1/$3.crt.new" "$dir/$1/$3.crt"
}

serial_of() { printf '%d' "0x$(openssl x509 -in "$1" -noout -serial | sed 's/serial=//')"; }

certify() { # FOLDER NAME: both certificates, and what to trust
	sign "$1" "$2" node node
	sign "$1" "$2" kds kds-client
	must "fetch the cluster's CAs" kds-cli ca bundle
	{ cat "$dir/admin/infra-ca.crt" && printf '%s\n' "$out"; } >"$dir/$1/ca.pem"
	must "openssl verify refuses $2's certificate" openssl verify -CAfile "$dir/$1/ca.pem" -purpose sslserver "$dir/$1/node.crt"
	must "openssl verify refuses $2's client certificate" openssl verify -CAfile "$dir/$1/ca.pem" -purpose sslclient "$dir/$1/kds.crt"
}

# kds-cli as a node's key distribution client.
as_node() { # FOLDER ARGUMENTS...
	local folder=$1
	shift
	kds-cli --cert "$dir/$folder/kds.crt" --key "$dir/$folder/kds.key" "$@"
}

exchange_keys() {
	local ident key restored private
	must "node1 makes a key" as_node node1 --json key create urn:example:prjA
	ident=$(field ident <<<"$out")
	key=$(field key <<<"$out")
	must "node2 restores the key" as_node node2 --json key restore "$ident"
	restored=$(field key <<<"$out")
	[ -n "$key" ] || fail "node1 got no key"
	[ "$key" = "$restored" ] || fail "node2 restored another key than node1 made"
	say "group key" "node1 made one for urn:example:prjA; node2 restored the same from its ident alone (SHA-256 $(
		printf '%s' "$restored" | base64 -d | sha256sum | cut -c 1-16)...)"
	must "node1 makes a key" as_node node1 --json key create urn:example:prjB
	private=$(field ident <<<"$out")
	if as_node node2 key restore "$private" >/dev/null 2>"$scratch/err"; then
		fail "node2 got a key of urn:example:prjB, which its certificate does not name"
	fi
	grep -q "urn:example:prjB" "$scratch/err" || fail "node2 asked for a key of urn:example:prjB: $(tail -n 1 "$scratch/err")"
	say "" "node2 was refused one of urn:example:prjB: its certificate does not name that group"
}

old_refused() {
	local status=0
	kds-cli --cert "$scratch/old.crt" --key "$dir/node1/kds.key" --timeout 3 key create urn:example:prjA >"$scratch/old" 2>&1 ||
		status=$?
	[ $status -eq 3 ] && return
	tail -n 1 "$scratch/old"
	return 1
}

raise_minimum() {
	local minimum old
	cp "$dir/node1/kds.crt" "$scratch/old.crt"
	old=$(serial_of "$scratch/old.crt")
	must "raise min_serial" kds-cli serial set-min all
	must "ask for the serial numbers" kds-cli --json serial show
	minimum=$(field minSerial <<<"$out")
	[ "$old" -lt "$minimum" ] || fail "min_serial is $minimum, node1's certificate $old is not below it"
	wait_until "node1's old certificate is refused" old_refused
	say min_serial "raised to $minimum: node1's certificate $old is refused now"
	certify node1 node1.example.com
	certify node2 node2.example.com
	[ "$(serial_of "$dir/node1/kds.crt")" -ge "$minimum" ] || fail "a new certificate is below min_serial"
	wait_until "node1's new certificate is accepted" as_node node1 key create urn:example:prjA
	say renewed "the same keys, new certificates: node1 has $(serial_of "$dir/node1/node.crt") and $(
		serial_of "$dir/node1/kds.crt"), node2 $(serial_of "$dir/node2/node.crt") and $(serial_of "$dir/node2/kds.crt")"
}

lose_leader() {
	local leader pid before serial
	if [ "$replicas" -lt 3 ]; then
		say leader "not killed: $replicas replica(s) survive no loss (three do)"
		return
	fi
	must "ask for the quorum view" kds-cli --json cluster view
	leader=serial$(field leaderId <<<"$out")
	pid=$(pid_of "$leader") || fail "$leader leads but does not run"
	must "ask for the serial numbers" kds-cli --json serial show
	before=$(field highestIssued <<<"$out")
	kill -KILL "$pid"
	must "sign without $leader" kds-cli --timeout 30 cert sign "$dir/node1/node.csr" --node node1.example.com --profile node
	printf '%s\n' "$out" >"$dir/node1/node.crt"
	serial=$(serial_of "$dir/node1/node.crt")
	[ "$serial" -gt "$before" ] || fail "serial $serial was issued again ($before is the highest issued)"
	say leader "$leader (process $pid) killed with SIGKILL; the next certificate came all the same: serial $serial, never seen before"
	while pid_of "$leader" >/dev/null; do
		sleep 0.1
	done
	start "$leader"
	wait_until "$leader catches up" kds-cli cluster health
	say "" "$leader restarted and caught up"
}

main_job() {
	add_node node1.example.com 'urn:example:prjA#10s' urn:example:prjB
	add_node node2.example.com 'urn:example:prjA#10s'
	local i
	for i in 1 2; do
		make_requests "node$i" "node$i.example.com"
		certify "node$i" "node$i.example.com"
		say certificate "node$i.example.com: key and request made in node$i/, serials $(serial_of "$dir/node$i/node.crt") (node) and $(
			serial_of "$dir/node$i/kds.crt") (its KDS client) held by a quorum; openssl verify: OK"
	done
	exchange_keys
	raise_minimum
	lose_leader
}

how_to_go_on() {
	local stop_command="deploy/quickstart.sh --stop"
	[ "$dir" = "$PWD/quickstart" ] || stop_command="deploy/quickstart.sh --dir $dir --stop"
	cat <<-END

	It runs; go on with:
	  source $dir/env
	  kds-cli cluster view                       the replicas as they see each other
	  kds-cli cert list                          what was issued
	  kds-cli --cert $dir/node1/kds.crt --key $dir/node1/kds.key key create urn:example:prjA
	  kds-cli --help                             and --help behind every noun and verb
	Logs are in $dir/log. To end it: $stop_command
	END
}

if [ -n "$stop" ]; then
	[ -e "$dir/run/quickstart" ] || { printf 'quickstart: nothing was started in %s\n' "$dir"; exit 0; }
	read -r replicas net <"$dir/run/quickstart"
	list_names "$replicas"
	stop_all
	exit 0
fi

if [ -e "$dir" ] && [ ! -e "$dir/run/quickstart" ] && ! rmdir "$dir" 2>/dev/null; then
	fail "$dir holds something else; give an empty or new --dir"
fi
choose_options
list_names "$replicas"
check_addresses
[ -z "$install" ] || "$source/deploy/install-deps.sh"
scratch=$(mktemp -d)
[ -z "$build" ] || (build_programs)
export PATH="$bin:$PATH"
make_cluster
write_env
export KDS_CONFIG=$dir/admin/cli.conf
start_all
main_job
how_to_go_on
