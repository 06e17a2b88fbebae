#!/usr/bin/env bash
# The cluster of docker-compose, from nothing to healthy and through everything that happens to hosts: cut off, paused, killed,
# replaced, restarted, without disk, moved to other addresses, restored elsewhere. After each no serial was given twice, every
# certificate is on record, every key can be restored, and nothing raises an alarm.
# ctest: serial timeout=1800
. "$(dirname "$0")/lib.sh"
need_compose

projects=("$project")
helpers=()
also_clean_up() {
	local id name
	if [ "$status" -ne 0 ]; then
		for id in $(docker ps -aq --filter "label=com.docker.compose.project=$project"); do
			docker logs --tail 60 "$id" >"$work/$(docker inspect -f '{{.Name}}' "$id" | tr -d /).log" 2>&1
		done
	fi
	for id in "${helpers[@]}"; do
		docker rm -f "$id" >/dev/null 2>&1
	done
	for name in "${projects[@]}"; do
		remove_project "$name"
	done
	if [ -z "${KDS_TEST_IMAGE:-}" ]; then
		docker rmi "$KDS_IMAGE" "$KDS_NODE_IMAGE" >/dev/null 2>&1
		docker image prune -f --filter label=org.kds.stage=build >/dev/null 2>&1
	fi
}

# --- what must hold after each -----------------------------------------------------------------------------------------------

# A certificate, of which $work/serials keeps the serial; and a key, of which $work/keys keeps ident and digest.
certificate() { # [--timeout of the request]
	expect 0 kds-cli --timeout "${1:-20}" cert sign /kds/test.csr --node node1.example.com
	printf '%s\n' "$out" >"$work/last.crt"
	serial_of "$work/last.crt" >>"$work/serials"
	echo >>"$work/serials"
}
key() {
	local answer
	answer=$(inside node1 kds-cli --json --timeout 20 key create urn:example:prjA) || fail "node1 gets no key"
	printf '%s %s\n' "$(json ident <<<"$answer")" "$(json key <<<"$answer" | sha256sum | cut -c 1-64)" >>"$work/keys"
}
use() { certificate && key; }

check() {
	local ident digest serial
	wait_healthy
	use
	assert_eq "serials that were given twice" "" "$(grep . "$work/serials" | sort | uniq -d)"
	kds-cli --json cert list | python3 -c '
import json, sys
serials = [c["serial"] for c in json.load(sys.stdin)["certificates"]]
assert len(serials) == len(set(serials)), "a serial is on record twice"
print("\n".join(serials))' >"$work/recorded" || fail "the records"
	for serial in $(<"$work/serials"); do
		grep -qx "$serial" "$work/recorded" || fail "certificate $serial is not on record"
	done
	# All in one go: a call into a container takes a while.
	cut -d ' ' -f 1 "$work/keys" | inside node2 sh -c '
		while read -r ident; do kds-cli --json --timeout 20 key restore "$ident" || exit 1; done' >"$work/restored" ||
		fail "node2 cannot restore a key"
	python3 - "$work/restored" "$work/keys" <<-'END' || fail "a restored key differs"
		import hashlib, json, sys
		text, keys, at = open(sys.argv[1]).read(), [line.split() for line in open(sys.argv[2])], 0
		for ident, digest in keys:
		    answer, end = json.JSONDecoder().raw_decode(text[at:].lstrip())
		    at = len(text) - len(text[at:].lstrip()) + end
		    assert hashlib.sha256((answer["key"] + "\n").encode()).hexdigest() == digest, ident
	END
	say "   healthy; $(grep -c . "$work/serials") certificates on record, $(wc -l <"$work/keys") keys restored"
}

# --- from nothing to healthy --------------------------------------------------------------------------------------------------

say "the image"
base_image trixie
[ -n "${KDS_TEST_IMAGE:-}" ] || compose build || fail "the image could not be built: $(tail -n 5 "$work/compose.log")"
say "   $(docker image inspect -f '{{.Size}}' "$KDS_IMAGE" | awk '{ printf "%.0f MB", $1 / 1e6 }'), and beside the base's packages:"
docker run --rm --entrypoint dpkg-query "$KDS_IMAGE" -W -f '${Package} ${Version}\n' | sort >"$work/packages"
docker run --rm debian:trixie-slim dpkg-query -W -f '${Package} ${Version}\n' | sort | comm -23 "$work/packages" - | sed 's/^/      /'
expect 1 grep -E '^(gcc|cpp|binutils|cmake|libc6-dev) ' "$work/packages"
expect 0 docker run --rm "$KDS_IMAGE" sh -c 'id -u; ls /var/lib/apt/lists /var/cache/apt'
assert_match "who runs in it, without package lists" '^7400' "$out"
assert_no_match "package lists" "Packages|\.deb|pkgcache" "$out"

say "from nothing to healthy"
began=$SECONDS
compose up -d || fail "docker-compose up: $(tail -n 5 "$work/compose.log")"
wait_healthy
say "   after $((SECONDS - began)) s"
kds-cli cluster view

say "no process sees what is another's"
for service in serial1 serial2 serial3 ca1 ca2 keydist node1 node2 web; do
	id=$(container "$service")
	docker exec "$id" find /kds /mail /idents \( -name 'infra-ca.key' -o -name passphrase -o -name 'admin.*' \) 2>/dev/null >>"$work/strays" || true
	docker exec "$id" sh -c 'find /kds -name "*.key" -exec sha256sum {} +' >>"$work/keyfiles"
	assert_eq "files of $service that others may read" "" "$(docker exec "$id" find /kds -name '*.key' ! -perm 600)"
	expect 1 docker exec "$id" touch /usr/here # a root file system that is read-only
	assert_eq "capabilities of $service" 0000000000000000 "$(docker exec "$id" sed -n 's/^CapEff:\t//p' /proc/1/status)"
done
assert_eq "files of the administrator elsewhere" "" "$(<"$work/strays")"
assert_eq "keys that are in two places" "" "$(cut -c 1-64 "$work/keyfiles" | sort | uniq -d)"

say "certificates, keys and a web server with mutual TLS"
have() { inside "$1" test -s /kds/node.crt -a -s /kds/kds.crt -a -s /kds/ca.pem; }
for name in node1 node2 web; do
	wait_for 60 "$name to have its certificates" have $name
done
shared() {
	docker logs "$(container node2)" 2>&1 | sed -n 's/.*restored //p' | tail -n 1 >"$work/last"
	[ -s "$work/last" ] && docker logs "$(container node1)" 2>&1 | grep -qF "created $(<"$work/last")"
}
wait_for 60 "node2 to restore a key that node1 made" shared
say "   node2 restored $(<"$work/last")"
web=https://web.example.com:8443/
from_node1() { inside node1 curl -sS --max-time 10 --cacert ca.pem "$@" $web; }
from_web() { wait_for 60 "the web server" from_node1 --cert node.crt --key node.key; }
from_web
expect 0 from_node1 --cert node.crt --key node.key
assert_match "what the web server answers" "hello, CN=node1.example.com" "$out"
expect 0 from_node1 -o /dev/null -w '%{http_code}'
assert_eq "its answer to who shows no certificate" 400 "$out"
kds-cli cert request --name node1.example.com --key /kds/test.key --out /kds/test.csr
inside node2 cat node.crt >"$work/first.crt"
inside node2 touch -d '1 day ago' node.crt
renewed() { inside node2 cat node.crt >"$work/second.crt" && ! cmp -s "$work/first.crt" "$work/second.crt"; }
wait_for 60 "node2 to renew its certificate" renewed
[ "$(serial_of "$work/second.crt")" -gt "$(serial_of "$work/first.crt")" ] || fail "node2's new certificate has no higher serial"
check

serving() { docker exec "$1" /usr/local/lib/kds/healthy; } # CONTAINER

# --- faults ----------------------------------------------------------------------------------------------------------------------

follower() { printf 'serial%d' "$(($(leader_id) % 3 + 1))"; }
other_leader() { [ "$(leader)" != "$1" ] && has_leader; }

for who in follower leader; do
	victim=$($who)
	say "a $who ($victim) is cut off, and comes back"
	docker network disconnect "$(network)" "$(container "$victim")"
	[ $who = follower ] || wait_for 60 "another leader" other_leader "$victim"
	use
	docker network connect --alias "$victim" "$(network)" "$(container "$victim")"
	check
done

victim=$(leader)
say "the leader ($victim) is paused past an election"
docker pause "$(container "$victim")" >/dev/null
wait_for 60 "another leader" other_leader "$victim"
use
docker unpause "$(container "$victim")" >/dev/null
check

say "kill -9 of each, and its restart"
for name in serial1 serial2 serial3 ca1 ca2 "keydist 1" "keydist 2" admin node1 node2 web; do
	# shellcheck disable=SC2086
	id=$(container $name)
	docker kill -s KILL "$id" >/dev/null
	case $name in serial*) certificate ;; esac
	docker start "$id" >/dev/null
	wait_for 60 "every replica to be reachable" is_whole
done
from_web
check

say "a container is replaced: an empty volume, another id; its disk is a small one (the least without an alarm)"
cat >"$work/small.yml" <<END
volumes:
  serial2:
    driver_opts: {type: tmpfs, device: tmpfs, o: "size=1200m"}
END
expect 0 docker stop "$(container serial2)"
expect 0 docker rm "$(container serial2)"
volume=${project}_serial2
for id in $(docker ps -aq --filter "volume=$volume"); do
	expect 0 docker rm "$id" # the init step's, which is done
done
expect 0 docker volume rm "$volume"
expect 0 kds-cli cluster remove serial2 --wait 60
expect 0 kds-cli cluster add serial2 --address serial2 --listen 0.0.0.0 --out /kds/new/serial2 --wait 0
overrides=(-f "$work/small.yml")
# A tmpfs lives as long as somebody has it mounted.
docker volume create --driver local --opt type=tmpfs --opt device=tmpfs --opt o=size=1200m \
	--label "com.docker.compose.project=$project" --label com.docker.compose.volume=serial2 "$volume" >/dev/null
holder=$(docker run -d --init --user root --label "com.docker.compose.project=$project" -v "$volume:/disk" "$KDS_IMAGE" sleep 3600)
helpers+=("$holder")
compose run --rm --no-deps init /usr/local/lib/kds/adopt || fail "adopt: $(tail -n 3 "$work/compose.log")"
compose up -d --no-recreate serial2 || fail "docker-compose up: $(tail -n 5 "$work/compose.log")"
votes() { kds-cli cluster members | grep -qE '^[0-9]+ +serial2 +voter'; }
wait_for 60 "the new serial2 to vote" votes
check

say "its disk is full, and gets room again"
docker exec "$holder" sh -c 'dd if=/dev/zero of=/disk/full bs=1M 2>/dev/null; [ -s /disk/full ]'
stopped() { docker logs --since 120s "$(container serial2)" 2>&1 | grep -qi -E 'full|no space'; }
i=0
until stopped; do
	use
	[ $((i += 1)) -lt 60 ] || fail "serial2 does not notice that its disk is full"
done
use
docker exec "$holder" rm /disk/full
docker start "$(container serial2)" >/dev/null # or it waits for its supervisor, longer each time
check

say "a rolling restart of everything under load"
docker cp -q "$(container ca1):/kds/." "$work/ca1" 2>/dev/null || docker cp "$(container ca1):/kds/." "$work/ca1" >/dev/null
chmod -R go= "$work/ca1" && chown -R "$(id -u):$(id -g)" "$work/ca1"
coproc load { exec "$tests/failover_load" "$(address_of serial1):7400,$(address_of serial2):7400,$(address_of serial3):7400" \
	cluster.example.com key.example.com "$work"/ca1/{service.crt,service.key,infra-ca.crt} 16 once 2>>"$work/load.log"; }
load_pid=$load_PID load_in=${load[1]} load_out=${load[0]}
tell() { # COMMAND: its answer is in $told
	echo "$1" >&"$load_in"
	read -r told <&"$load_out" || fail "the load ended at '$1': $(tail -n 1 "$work/load.log")"
}
value() { sed -n "s/.*\b$1=\(-\?[0-9]*\).*/\1/p" <<<"$told"; }
certificates() { # until told otherwise, with the client's own retries
	local n=0
	while [ ! -e "$work/enough" ]; do
		kds-cli --timeout 30 cert sign /kds/test.csr --node node1.example.com >"$work/rolling.crt" 2>>"$work/rolling.err" || exit 1
		serial_of "$work/rolling.crt" >>"$work/serials"
		echo >>"$work/serials"
		inside node2 kds-cli --timeout 30 key create urn:example:prjA >/dev/null 2>>"$work/rolling.err" || exit 1
		n=$((n + 1))
	done
	echo $n >"$work/rolling"
}
tell "run 500"
certificates &
rolling=$!
for name in serial1 serial2 serial3 ca1 ca2 "keydist 1" "keydist 2"; do
	# shellcheck disable=SC2086
	docker restart -t 20 "$(container $name)" >/dev/null
	wait_for 60 "every replica to be reachable" is_whole
	# shellcheck disable=SC2086
	wait_for 60 "$name to serve" serving "$(container $name)"
	tell mark
done
touch "$work/enough"
wait $rolling || fail "a client's request failed: $(tail -n 1 "$work/rolling.err")"
tell finish
wait "$load_pid" || fail "the load's status"
say "   $told; $(<"$work/rolling") certificates and keys"
assert_eq "requests that failed when their client repeated them once" 0 "$(value failed_again)"
assert_eq "answers that differ from the first" 0 "$(value differing)"
assert_eq "serials beside one for each request, and blocks for kds-ca" 0 $(($(value extra) % 1000))
check

# --- what an administrator does -----------------------------------------------------------------------------------------------

say "four distributors, and two again"
compose up -d --no-recreate --scale keydist=4 keydist || fail "docker-compose up --scale: $(tail -n 5 "$work/compose.log")"
for i in 1 2 3 4; do
	wait_for 60 "keydist $i to serve" serving "$(container keydist $i)"
done
assert_eq "folders that two of them have" "" \
	"$(for i in 1 2 3 4; do docker exec "$(container keydist $i)" cat /tmp/folder; done | sort | uniq -d)"
check
compose up -d --no-recreate --scale keydist=2 keydist
check

say "down, and up at other addresses"
before=$(for name in serial1 serial2 serial3; do address_of $name; done)
compose down || fail "docker-compose down: $(tail -n 5 "$work/compose.log")"
octet=$((16 + $$ % 200))
cat >"$work/moved.yml" <<END
networks:
  default:
    ipam: {config: [{subnet: 10.199.$octet.0/24}]}
END
overrides+=(-f "$work/moved.yml")
compose up -d || fail "docker-compose up: $(tail -n 5 "$work/compose.log")"
after=$(for name in serial1 serial2 serial3; do address_of $name; done)
assert_eq "addresses that are as before" "" "$(comm -12 <(sort <<<"$before") <(sort <<<"$after"))"
check
from_web

say "a backup, restored into a second project"
expect 0 kds-cli backup save /kds/kds.backup
certificate # what came after the backup: its serial must not come again
compose stop || fail "docker-compose stop: $(tail -n 5 "$work/compose.log")"
first=$project
project=$first-second
projects+=("$project")
overrides=()
for name in admin ca1 ca2 keydist node1 node2 web; do # all but the replicas
	docker volume create --label "com.docker.compose.project=$project" --label "com.docker.compose.volume=$name" "${project}_$name" >/dev/null
	docker run --rm --user root -v "${first}_$name:/from:ro" -v "${project}_$name:/to" "$KDS_IMAGE" \
		sh -c 'cp -a /from/. /to/ && chown --reference=/from /to && chmod --reference=/from /to'
done
compose run --rm --no-deps admin kds-cli backup restore kds.backup --dir new --min-serial keep \
	--replicas serial1,serial2,serial3 --listen 0.0.0.0 ||
	fail "backup restore: $(tail -n 3 "$work/compose.log")"
compose run --rm --no-deps init /usr/local/lib/kds/adopt || fail "adopt: $(tail -n 3 "$work/compose.log")"
compose up -d || fail "docker-compose up: $(tail -n 5 "$work/compose.log")"
wait_healthy
lost=$(grep . "$work/serials" | tail -n 1)
sed -i "/^$lost\$/d" "$work/serials" # its record came after the backup
certificate
[ "$(serial_of "$work/last.crt")" -gt "$lost" ] || fail "serial $lost was given again"
check
say "the whole took $SECONDS s"
