# shellcheck shell=bash disable=SC2034
# For the scripts of tests/integration and tests/fault:
#
#     . "$(dirname "$0")/../integration/lib.sh"     # with the script's own arguments: <bin dir> <source dir>
#
# Gives $bin, $source, $work (a fresh directory, removed at the end), $net (this test's 127.A.B), a cluster of real processes,
# and asserts that print what differed. Everything started with start() ends with the script, by process id.
set -eu

[ $# -ge 2 ] || { printf 'usage: %s BIN_DIR SOURCE_DIR\n' "$0" >&2; exit 2; }
bin=$(cd "$1" && pwd)
source=$(cd "$2" && pwd)
tests=$(dirname "$bin")/tests
net=${KDS_TEST_NET:-127.$((64 + $$ % 50)).$(($$ / 50 % 250))}
work=$(mktemp -d)
cluster=$work/cluster
export PATH="$bin:$PATH"
unset KDS_CONFIG

# Sanitizers make everything slower; waits end as soon as what they wait for is there.
sanitized=${KDS_TEST_SANITIZE:-}
patience=${sanitized:+120}
patience=${KDS_TEST_PATIENCE:-${patience:-30}}

declare -A pid_of=()

say() { printf -- '-- %s\n' "$*"; }

fail() {
	local i=1
	while [ "${BASH_SOURCE[i]:-}" = "${BASH_SOURCE[0]}" ]; do
		i=$((i + 1)) # the script's own line tells more than an assert's
	done
	printf 'FAILED at %s:%s: %s\n' "${BASH_SOURCE[i]##*/}" "${BASH_LINENO[i - 1]}" "$*" >&2
	exit 1
}

skip() {
	printf 'skipped: %s\n' "$*"
	exit 77
}

# Ends every process that was started, shows the logs when the test failed, removes the directory.
clean_up() {
	local status=$? name
	trap - EXIT
	set +e
	if declare -F also_clean_up >/dev/null; then
		also_clean_up # a script's own
	fi
	for name in "${!pid_of[@]}"; do
		kill -TERM "${pid_of[$name]}" 2>/dev/null
	done
	for name in "${!pid_of[@]}"; do
		reap "$name" || status=1
	done
	# Also of processes whose exit status nobody saw.
	if grep -r -l --include='*.log' -E '(Address|Leak|Thread|UndefinedBehavior)Sanitizer|runtime error:' "$work" >&2; then
		printf 'a sanitizer reported, see above which log\n' >&2
		status=1
	fi
	if [ $status -ne 0 ] && [ $status -ne 77 ]; then
		printf '%s ended with status %d; the logs:\n' "$(basename "$0")" "$status" >&2
		find "$work" -name '*.log' -size +0 | while read -r name; do
			printf '==> %s\n' "${name#"$work"/}" >&2
			tail -n 60 "$name" >&2
		done
	fi
	[ -n "${KDS_TEST_KEEP:-}" ] || rm -rf "$work"
	exit $status
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Waits for a process that was told to end; kills it after 15 s and says so. Sanitizers report by exit status 99.
reap() {
	local pid=${pid_of[$1]} i status=0
	for ((i = 0; i < 150; i++)); do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	if kill -0 "$pid" 2>/dev/null; then
		printf '%s (pid %d) did not end within 15 s of SIGTERM\n' "$1" "$pid" >&2
		kill -KILL "$pid"
		wait "$pid"
		unset "pid_of[$1]"
		return 1
	fi
	wait "$pid" || status=$?
	unset "pid_of[$1]"
	if [ $status -ne 0 ] && [ $status -ne 137 ] && [ $status -ne 143 ]; then
		printf '%s ended with status %d\n' "$1" "$status" >&2
		return 1
	fi
}

# Runs COMMAND every 0.1 s until it succeeds: wait_for SECONDS WHAT COMMAND...
wait_for() {
	local seconds=$1 what=$2 end
	shift 2
	end=$((SECONDS + seconds))
	until "$@" >"$work/wait.out" 2>&1; do
		[ $SECONDS -lt $end ] || fail "waited ${seconds} s for $what; last: $(tail -n 3 "$work/wait.out" | tr '\n' ' ')"
		sleep 0.1
	done
}

assert_eq() { # WHAT EXPECTED ACTUAL
	[ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
}
assert_ne() { # WHAT UNEXPECTED ACTUAL
	[ "$2" != "$3" ] || fail "$1: must differ, is '$3'"
}
assert_match() { # WHAT REGEX ACTUAL
	[[ $3 =~ $2 ]] || fail "$1: expected a match of '$2', got '$3'"
}
assert_no_match() { # WHAT REGEX ACTUAL
	[[ ! $3 =~ $2 ]] || fail "$1: expected no match of '$2', got '$3'"
}

# Runs a command that must end with this status: expect STATUS COMMAND... Its output is in $out and $err afterwards.
expect() {
	local expected=$1 status=0
	shift
	"$@" >"$work/out" 2>"$work/err" || status=$?
	out=$(<"$work/out")
	err=$(<"$work/err")
	[ "$status" -eq "$expected" ] ||
		fail "'$*': expected exit status $expected, got $status; out: '$(head -c 400 "$work/out")'; err: '$(head -c 400 "$work/err")'"
}

# --- a cluster ---------------------------------------------------------------------------------------------------------------

# Makes the files: cluster_init [REPLICAS]. Replica i is on $net.<i>, kds-ca on $net.101, kds-keydist on $net.102.
cluster_init() {
	local i hosts=
	replicas=${1:-3}
	for ((i = 1; i <= replicas; i++)); do
		hosts+=${hosts:+,}$net.$i
	done
	expect 0 kds-cli init --cluster cluster.example.com --kds-name key.example.com --dir "$cluster" \
		--replicas "$hosts" --ca-host "$net.101" --keydist-host "$net.102"
	export KDS_CONFIG=$cluster/admin/cli.conf
}

# "serial2" to "kds-serial".
program_of() { printf 'kds-%s' "${1%%[0-9]*}"; }
config_of() { printf '%s/%s/%s.conf' "$cluster" "$1" "$(program_of "$1")"; }

# Starts daemons as an administrator would: start serial1 ca1 ...; their logs are $work/NAME.log.
start() {
	local name
	for name in "$@"; do
		[ -z "${pid_of[$name]:-}" ] || fail "$name runs already"
		"$(program_of "$name")" --config "$(config_of "$name")" >>"$work/$name.log" 2>&1 &
		pid_of[$name]=$!
	done
}

stop() {
	local name
	for name in "$@"; do
		kill -TERM "${pid_of[$name]}"
		reap "$name" || fail "$name did not stop in good order, see its log"
	done
}

kill9() {
	local pid=${pid_of[$1]}
	kill -KILL "$pid" 2>/dev/null || fail "$1 has ended by itself: $(grep ' error ' "$work/$1.log" | tail -n 1)"
	wait "$pid" 2>/dev/null || true
	unset "pid_of[$1]"
}

alive() { kill -0 "${pid_of[$1]:-0}" 2>/dev/null; }

all_names() {
	local i
	for ((i = 1; i <= replicas; i++)); do
		printf 'serial%d ' "$i"
	done
	printf 'ca1 keydist1'
}

# A whole cluster that answers: files, processes, health.
cluster_up() {
	cluster_init "${1:-3}"
	# shellcheck disable=SC2046
	start $(all_names)
	create_ca
	wait_healthy
}

# Once for a new cluster, as its administrator does it.
have_ca() { kds-cli ca show >/dev/null 2>&1 || kds-cli ca create; }
create_ca() { wait_for "$patience" "the cluster's CA to be created" have_ca; }

wait_healthy() { wait_for "$patience" "every daemon to be healthy" kds-cli cluster health; }

# The value of one field, the first of that name, of a JSON document on standard input.
json() {
	python3 -c '
import json, sys
def find(value, name):
    if isinstance(value, dict):
        if name in value:
            return value[name]
        value = list(value.values())
    if isinstance(value, list):
        for v in value:
            found = find(v, name)
            if found is not None:
                return found
    return None
found = find(json.load(sys.stdin), sys.argv[1])
print("" if found is None else json.dumps(found) if isinstance(found, (dict, list, bool)) else found)' "$1"
}

leader_id() { kds-cli --json cluster view 2>/dev/null | json leaderId; }
has_leader() { [[ $(leader_id) =~ ^[1-9][0-9]*$ ]]; }

# One node with key, request and certificates, as its administrator makes them: make_node NAME GROUP...
# Leaves $work/NAME/{node,kds}.{key,csr,crt} and ca.pem.
make_node() {
	local name=$1 groups=() group
	shift
	for group in "$@"; do
		groups+=(--group "$group")
	done
	expect 0 kds-cli node add "$name" "${groups[@]}"
	mkdir -p "$work/$name"
	new_request "$work/$name/node" "$name"
	new_request "$work/$name/kds" "$name"
	sign "$work/$name/node" "$name" node
	sign "$work/$name/kds" "$name" kds-client
	cat "$cluster/admin/infra-ca.crt" >"$work/$name/ca.pem"
	expect 0 kds-cli ca bundle
	printf '%s\n' "$out" >>"$work/$name/ca.pem"
}

# A key and a request for it, made with OpenSSL: new_request FILES COMMON_NAME.
new_request() {
	(umask 077 && openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" \
		-keyout "$1.key" -out "$1.csr" 2>/dev/null) || fail "openssl req for $2"
}

# Has the request signed by the administrator: sign FILES NODE PROFILE.
sign() {
	expect 0 kds-cli cert sign "$1.csr" --node "$2" --profile "$3"
	printf '%s\n' "$out" >"$1.crt"
}

# kds-cli as a node's key distribution client: as_client NAME ARGUMENTS...
as_client() {
	local d=$work/$1
	shift
	kds-cli --cert "$d/kds.crt" --key "$d/kds.key" "$@"
}

# The serial of a certificate file, decimal.
serial_of() { printf '%d' "0x$(openssl x509 -in "$1" -noout -serial | sed 's/serial=//')"; }
