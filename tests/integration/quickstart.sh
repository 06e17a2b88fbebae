#!/usr/bin/env bash
# deploy/quickstart.sh: does what README says, can be repeated, refuses foreign directories, and leaves no process behind.
# ctest: serial timeout=300
. "$(dirname "$0")/lib.sh"

block=${net%.*}
dir=$work/quickstart
quickstart=("$source/deploy/quickstart.sh" --dir "$dir" --no-install --bin "$bin")

also_clean_up() {
	[ ! -e "$dir/run/quickstart" ] || "${quickstart[@]}" --stop
}

daemons() { # the processes that run from this directory
	local process arguments
	for process in /proc/[0-9]*; do
		mapfile -d '' -t arguments 2>/dev/null <"$process/cmdline" || continue
		[[ " ${arguments[*]} " != *" --config $dir/"* ]] || echo "${process#/proc/}"
	done
}

mkdir "$work/other"
touch "$work/other/file"
expect 1 "$source/deploy/quickstart.sh" --dir "$work/other" --no-install --bin "$bin" --net "$block"
assert_match "a foreign directory" "holds something else" "$err"
assert_eq "what is in it afterwards" "file" "$(ls "$work/other")"

expect 0 "${quickstart[@]}" --net "$block"
printf '%s\n' "$out"
for word in openssl prjA prjB min_serial SIGKILL; do
	assert_match "the output" "$word" "$out"
done
assert_eq "processes" 5 "$(daemons | wc -l)"
for file in env admin/cli.conf admin/admin.crt admin/admin.key admin/infra-ca.crt admin/infra-ca.key admin/passphrase \
	serial1 serial2 serial3 ca1 keydist1 node1/node.crt node1/node.key node1/kds.crt node1/kds.key node1/ca.pem node2/node.crt \
	node2/node.key node2/kds.crt node2/kds.key node2/ca.pem log run/serial1.pid run/ca1.pid run/keydist1.pid; do
	[ -e "$dir/$file" ] || fail "no $file in the quickstart's directory"
done
for key in admin/admin.key admin/infra-ca.key node1/node.key node2/kds.key serial1/service.key; do
	assert_eq "the mode of $key" 600 "$(stat -c %a "$dir/$key")"
done
assert_match "the infrastructure CA's key" "ENCRYPTED" "$(head -n 1 "$dir/admin/infra-ca.key")"
# A secret printed is a secret lost: no key in what people see or what is kept.
for key in "$dir"/node1/*.key "$dir"/admin/admin.key; do
	assert_no_match "the logs" "$(sed -n 2p "$key" | tr -dc 'A-Za-z0-9')" "$(cat "$dir"/log/*.log | tr -dc 'A-Za-z0-9')"
done

say "the printed way to go on works"
# shellcheck disable=SC2016
expect 0 bash -c '. "$1/env" && kds-cli cluster view && kds-cli cert list' - "$dir"
expect 0 openssl verify -CAfile "$dir/node1/ca.pem" "$dir/node1/node.crt" "$dir/node1/kds.crt" "$dir/node2/node.crt" "$dir/node2/kds.crt"

say "a second one on the same addresses is refused before anything is made"
expect 1 "$source/deploy/quickstart.sh" --dir "$work/second" --no-install --bin "$bin" --net "$block"
assert_match "addresses in use" "in use by another process" "$err"
[ ! -e "$work/second" ] || fail "the refused quickstart made its directory"

say "again, on the addresses of before: starts what is not running, does the rest once more"
pid=$(cat "$dir/run/ca1.pid")
kill -KILL "$pid"
ca_gone() { ! daemons | grep -qx "$pid"; }
wait_for 10 "kds-ca to be gone" ca_gone
expect 0 "${quickstart[@]}"
assert_match "what was started" "start +ca1"$'\n' "$out"
assert_eq "processes" 5 "$(daemons | wc -l)"
expect 1 "${quickstart[@]}" --replicas 5
assert_match "other options for the same directory" "other options" "$err"

say "--stop ends all, by process id, and may be repeated"
expect 0 "${quickstart[@]}" --stop
assert_eq "processes left" "" "$(daemons)"
assert_eq "pid files left" "" "$(find "$dir/run" -name '*.pid')"
expect 0 "${quickstart[@]}" --stop
sleep 300 & # a process that has the id of an old pid file is not the quickstart's to end
other=$!
pid_of[sleep]=$other
echo $other >"$dir/run/ca1.pid"
expect 0 "${quickstart[@]}" --stop
kill -0 $other || fail "--stop ended a process that it had not started"
kill $other
wait $other || true
unset "pid_of[sleep]"
