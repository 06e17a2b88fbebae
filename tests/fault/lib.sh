# shellcheck shell=bash disable=SC2034,SC2154
# For the scripts of tests/fault that hurt real replicas under a recorded load (what integration/lib.sh gives, and):
#
#     . "$(dirname "$0")/lib.sh"
#     replicas_up; load_start; ...faults...; load_stop; assert_linearizable; assert_same_state
#
# Replicas run with shim/shim.c preloaded; their connections to each other go through support/relay.py.
. "$(dirname "${BASH_SOURCE[0]}")/../integration/lib.sh"
[ -z "$sanitized" ] || skip "a preloaded library and a sanitizer do not go together"

history=$work/history
election=1 # seconds, as kds-cli init leaves it

# hurt SERIAL DISK [SECONDS_AHEAD]: what the shim makes of its disk and wall clock from now on.
hurt() { printf '%s %d\n' "$2" "${3:-0}" >"$work/$1.shim"; }

# Starts replicas, as "start" does, with the shim: start_replica serial1 ...
start_replica() {
	local name program=${KDS_TEST_REPLICA:-$bin/kds-serial} # a mutant's
	for name in "$@"; do
		[ -z "${pid_of[$name]:-}" ] || fail "$name runs already"
		[ -e "$work/$name.shim" ] || hurt "$name" ok
		env LD_PRELOAD="$tests/fault_shim.so" KDS_SHIM_CONTROL="$work/$name.shim" KDS_SHIM_DIR="$cluster/$name/data" \
			KDS_SHIM_CONNECT="7401=2000${name#serial}" "$program" --config "$(config_of "$name")" >>"$work/$name.log" 2>&1 &
		pid_of[$name]=$!
	done
}

relay_start() {
	local from to links=()
	for from in 1 2 3; do
		for to in 1 2 3; do
			[ $from = $to ] || links+=("$from:$to:$net.$to:2000$from:$net.$to:7401")
		done
	done
	python3 "$source/tests/support/relay.py" "$work/relay" "${links[@]}" >"$work/relay.out" 2>"$work/relay.log" &
	pid_of[relay]=$!
	wait_for "$patience" "the relay" grep -q ready "$work/relay.out"
}

# network COMMAND...: see support/relay.py.
network() { printf '%s\n' "$*" >"$work/relay"; }

# Three replicas that agree. Their certificates are two hours old: a clock may go back that far.
replicas_up() {
	hurt init ok -7200
	LD_PRELOAD=$tests/fault_shim.so KDS_SHIM_CONTROL=$work/init.shim cluster_init 3
	relay_start
	start_replica serial1 serial2 serial3
	wait_quorum
}

# A majority agrees, and nobody is missing.
is_whole() {
	kds-cli --json --timeout 3 cluster view | python3 -c '
import json, sys
view = json.load(sys.stdin)
sys.exit(not (view.get("quorum") and sum(m.get("reachable", False) for m in view["members"]) == 3))'
}
is_whole_or_dead() {
	local name
	for name in serial1 serial2 serial3; do
		alive $name || return 0
	done
	is_whole
}
wait_quorum() {
	local name
	wait_for 60 "the replicas to agree" is_whole_or_dead
	for name in serial1 serial2 serial3; do
		alive $name || fail "$name has ended: $(grep ' error ' "$work/$name.log" | tail -n 1)"
	done
}

# "serial2": who leads; and one who does not.
leader() { printf 'serial%d' "$(leader_id)"; }
follower() { printf 'serial%d' "$(($(leader_id) % 3 + 1))"; }

# The highest term of all: another leader has another.
term() {
	kds-cli --json cluster view | python3 -c '
import json, sys
print(max(int(m.get("status", {}).get("term", 0)) for m in json.load(sys.stdin)["members"]))'
}

# load_start [CLIENTS [RATE]]: until load_stop.
load_start() {
	"$tests/history" "$history" 600 "${1:-24}" "${2:-600}" cluster.example.com key.example.com "$cluster/admin/infra-ca.crt" \
		"$cluster/admin/admin.crt" "$cluster/admin/admin.key" "$cluster/ca1/service.crt" "$cluster/ca1/service.key" \
		"$net.1:7400" "$net.2:7400" "$net.3:7400" >"$work/history.out" 2>"$work/history.log" &
	pid_of[history]=$!
	progress 200
}

answers() { grep -c ' = ok' "$history" 2>/dev/null || true; }

# Those that ended by themselves, a line each.
ended() {
	local name
	for name in serial1 serial2 serial3; do
		[ -z "${pid_of[$name]:-}" ] || alive $name || printf '%s\n' $name
	done
}
too_few() { [ "$(ended | wc -l)" -ge 2 ]; }

# Waits until the clients have got so many more answers.
progress() {
	local wanted=$(($(answers) + $1))
	enough() { [ "$(answers)" -ge "$wanted" ] || too_few; }
	wait_for 60 "$1 more answers" enough
	! too_few || fail "$(ended | tr '\n' ' ')have ended: $(grep -h ' error ' "$work"/serial?.log | tail -n 1)"
}

load_stop() {
	kill -TERM "${pid_of[history]}"
	reap history || fail "the load failed: $(<"$work/history.log")"
	say "load: $(<"$work/history.out")"
}

# That all answers together can be true.
assert_linearizable() {
	python3 "$source/tests/fault/check_history.py" "$history" >"$work/verdict" || {
		cp "$history" "${KDS_TEST_HISTORY:-/dev/null}"
		fail "$(<"$work/verdict")"
	}
	say "$(<"$work/verdict")"
}

applied_alike() {
	kds-cli --json --timeout 3 cluster view | python3 -c '
import json, sys
members = json.load(sys.stdin)["members"]
indexes = {m.get("status", {}).get(name) for m in members for name in ("appliedIndex", "lastIndex")}
sys.exit(not (len(members) == 3 and len(indexes) == 1))'
}

# That all replicas come to hold the same, in memory and on disk. Ends them.
assert_same_state() {
	wait_quorum
	wait_for 30 "all replicas to apply the same" applied_alike
	stop serial1 serial2 serial3
	python3 "$source/tests/fault/same_state.py" "$cluster"/serial{1,2,3}/data >"$work/same" || fail "$(<"$work/same")"
	say "$(<"$work/same")"
}

# assert_ended NAME STATUS REGEX: it ends by itself, with this status, and says so at last.
assert_ended() {
	local status=0
	gone() { ! alive "$1"; }
	wait_for 30 "$1 to end by itself" gone "$1"
	wait "${pid_of[$1]}" || status=$?
	unset "pid_of[$1]"
	assert_eq "exit status of $1" "$2" "$status"
	assert_match "what $1 said" "$3" "$(tail -n 3 "$work/$1.log")"
}
# A replica that runs has stopped itself; one that was started was refused what it found.
assert_stopped() { assert_ended "$1" 3 "$2"; }
assert_refused() { assert_ended "$1" 1 "$2"; }
