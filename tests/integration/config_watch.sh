#!/usr/bin/env bash
# kds-cli config watch tells each change, goes on when its replicas fail one after the other, and stops when told.
# ctest: timeout=240
# shellcheck disable=SC2154 # $out and $err are set by expect
. "$(dirname "$0")/lib.sh"
cluster_up 3

expect 0 kds-cli --json serial show
revision=$(json revision <<<"$out")
kds-cli --json config watch --since "$revision" setting/ >"$work/watched" 2>"$work/watch.log" &
pid_of[watch]=$!
has_seen() { grep -q "\"value\":\"$1\"" "$work/watched"; }
change() { # VALUE
	wait_for "$patience" "a leader" kds-cli config set site.x "$1"
	wait_for "$patience" "the watch to tell of $1" has_seen "$1"
}

say "each replica fails once, the leader too"
change one
for i in 1 2 3; do
	kill9 serial$i
	change "without-$i"
	start serial$i
	wait_healthy
done

say "all fail; the watch waits"
for i in 1 2 3; do
	kill9 serial$i
done
wait_for "$patience" "the watch to say that it waits" grep -q "trying again" "$work/watch.log"
start serial1 serial2 serial3
wait_healthy
change two
wait_for "$patience" "the watch to say that it goes on" grep -q "watching again" "$work/watch.log"

say "each change once, in order, a document a line"
python3 - "$work/watched" <<'END' || fail "what the watch printed is wrong: $(cat "$work/watched")"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert [l["setting"]["value"] for l in lines] == ["one", "without-1", "without-2", "without-3", "two"], lines
assert [int(l["revision"]) for l in lines] == sorted({int(l["revision"]) for l in lines}), lines
END
kill -TERM "${pid_of[watch]}"
wait "${pid_of[watch]}" || true
unset "pid_of[watch]"

say "a watch from what the cluster does not know starts over, and says so"
expect 0 kds-cli --json config watch --since 999999999 --count 2
assert_eq "the first line" '{"restart":true}' "$(head -n 1 <<<"$out")"
assert_match "what follows" '"key":"cluster"' "$(sed -n 2p <<<"$out")"
assert_match "the notice" "starting over" "$err"

say "history"
expect 0 kds-cli config unset site.x
expect 0 kds-cli serial set-min all
expect 0 kds-cli config history site.x
assert_eq "lines" 7 "$(wc -l <<<"$out")"
assert_match "the newest first" "^REVISION +TIME +WHO +KEY +WHAT +VALUE
[0-9]+ +20[0-9T:-]+Z +admin/admin +setting/site.x +deleted *
[0-9]+ +20[0-9T:-]+Z +admin/admin +setting/site.x +changed +two
.*admin +setting/site.x +created +one$" "$out"
expect 0 kds-cli --json config history --count 2
assert_eq "two entries" 2 "$(grep -c '"requester"' <<<"$out")"
assert_match "min_serial" '"key": "serial/min".*"requester": "admin/admin".*"deleted": true' "$(tr -d '\n' <<<"$out")"
expect 0 kds-cli config history
assert_match "daemons too" "keydist1 +masterkey/[0-9]+ +created" "$out"
assert_match "the beginning" "- +cluster +created" "$out"
expect 0 kds-cli --json config history
assert_no_match "secrets" '"sealedKey": "[^"]' "$out"
expect 0 kds-cli config history none.such
assert_eq "nothing" 1 "$(wc -l <<<"$out")"
