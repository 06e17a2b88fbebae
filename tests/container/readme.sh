#!/usr/bin/env bash
# The commands of README in bare Debian 12 and 13, as a stranger has them: nothing but what the distribution's packages bring.
# In both deploy/quickstart.sh; in Debian 13 tests/run.sh too, with some of the tests, as all of them run outside anyway.
# ctest: serial timeout=1800
. "$(dirname "$0")/lib.sh"

git -C "$source" rev-parse >/dev/null 2>&1 || skip "the sources are no git checkout"
boxes=()
also_clean_up() {
	[ ${#boxes[@]} -eq 0 ] || docker rm -f "${boxes[@]}" >/dev/null
}

# A container of the bare distribution with the sources in it, as of a checkout.
box() { # SUITE
	base_image "$1"
	local id
	id=$(docker run -d --init -w /kds "debian:$1-slim" sleep 3600)
	boxes+=("$id")
	# What a checkout of this working tree would have.
	(cd "$source" && git ls-files -z --cached --others --exclude-standard | xargs -0 ls -d 2>/dev/null | tar -c -T - --owner=0 --group=0) |
		docker exec -i "$id" tar -x -C /kds
}
try() { docker exec "${boxes[-1]}" sh -c "$1" >"$work/$2.log" 2>&1 || fail "$1 in $2: $(tail -n 5 "$work/$2.log")"; }

for suite in bookworm trixie; do
	say "$suite: deploy/quickstart.sh"
	began=$SECONDS
	box $suite
	try deploy/quickstart.sh $suite
	for word in 'openssl verify: OK' 'node2 restored the same' 'SIGKILL' 'restarted and caught up'; do
		grep -q "$word" "$work/$suite.log" || fail "the quickstart in $suite says nothing of '$word'"
	done
	say "   after $((SECONDS - began)) s"
done
say "trixie: tests/run.sh"
try 'tests/run.sh unit.test_base unit.test_cert integration.main_job' trixie
grep -q '100% tests passed' "$work/trixie.log" || fail "tests/run.sh in trixie"
say "   $(grep 'tests passed' "$work/trixie.log")"
say "the whole took $SECONDS s"
