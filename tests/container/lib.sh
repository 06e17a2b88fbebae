# shellcheck shell=bash disable=SC2034,SC2154
# For the scripts of tests/container: what integration/lib.sh gives, and clusters of deploy/docker-compose.yml.
#
#     . "$(dirname "$0")/lib.sh"
#
# All that a script makes has names of its own project, and goes when it ends; only the base images stay.
. "$(dirname "${BASH_SOURCE[0]}")/../integration/lib.sh"

[ -z "$sanitized" ] || skip "containers run the product as it is built for them"
command -v docker >/dev/null || skip "there is no docker here"
docker version >/dev/null 2>&1 || skip "docker's daemon does not answer: $(docker version 2>&1 | tail -n 1)"

project=kds-test-$$
export KDS_IMAGE=${KDS_TEST_IMAGE:-$project} KDS_EVERY=1 # an image that is there already need not be built
export KDS_NODE_IMAGE=$KDS_IMAGE-node

# Pulled where it can be, else made.
base_image() { # SUITE
	docker image inspect "debian:$1-slim" >/dev/null 2>&1 || docker pull -q "debian:$1-slim" >/dev/null 2>&1 ||
		"$source/deploy/base-image.sh" "$1"
}

if docker compose version >/dev/null 2>&1; then
	compose_program=(docker compose)
else
	compose_program=(docker-compose)
fi
overrides=()
compose() {
	nice "${compose_program[@]}" -p "$project" -f "$source/deploy/docker-compose.yml" "${overrides[@]}" "$@" >>"$work/compose.log" 2>&1
}
need_compose() {
	command -v "${compose_program[0]}" >/dev/null || skip "there is no docker-compose here"
}

# The id of a service's container: container serial1 [NUMBER]
container() {
	docker ps -aq --filter "label=com.docker.compose.project=$project" --filter "label=com.docker.compose.service=$1" \
		--filter "label=com.docker.compose.container-number=${2:-1}" --filter "label=com.docker.compose.oneoff=False"
}
inside() { # SERVICE COMMAND...
	local id
	id=$(container "$1")
	shift
	docker exec -i "$id" "$@"
}
network() { printf '%s_default' "$project"; }
address_of() { docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$(container "$1")"; }

# The administrator's.
kds-cli() { inside admin kds-cli "$@"; }

health() { kds-cli --timeout 5 cluster health; }
wait_healthy() { wait_for 120 "the cluster to be healthy" health; }
leader() { printf 'serial%d' "$(leader_id)"; }
is_whole() {
	kds-cli --json --timeout 3 cluster view | python3 -c '
import json, sys
view = json.load(sys.stdin)
sys.exit(not (view.get("quorum") and all(m.get("reachable", False) for m in view["members"])))'
}

# Removes what a project left, by its label.
remove_project() { # PROJECT
	local kind ids
	mapfile -t ids < <(docker ps -aq --filter "label=com.docker.compose.project=$1")
	[ ${#ids[@]} -eq 0 ] || docker rm -f "${ids[@]}" >/dev/null
	for kind in volume network; do
		mapfile -t ids < <(docker $kind ls -q --filter "label=com.docker.compose.project=$1")
		[ ${#ids[@]} -eq 0 ] || docker $kind rm "${ids[@]}" >/dev/null
	done
}
