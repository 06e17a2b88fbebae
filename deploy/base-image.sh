#!/usr/bin/env bash
# Makes the base image of deploy/Dockerfile with debootstrap, for machines that can pull none: from the mirror, and through the
# proxy, that this machine's apt uses, which the image then uses too.
set -eu

usage() {
	cat <<-END
	usage: deploy/base-image.sh [--force] [SUITE]

	Imports debian:SUITE-slim into docker (SUITE: trixie or bookworm; default trixie), unless there is one.
	  --force   also when there is one

	Needs root, and debootstrap, which it installs.
	END
}

say() { printf 'base-image: %s\n' "$*"; }
fail() { printf 'base-image: %s\n' "$*" >&2; exit 1; }

suite=trixie force=
for argument in "$@"; do
	case $argument in
	--force) force=1 ;;
	-h | --help) usage; exit 0 ;;
	trixie | bookworm) suite=$argument ;;
	*) usage >&2; exit 2 ;;
	esac
done
image=debian:$suite-slim

command -v docker >/dev/null || fail "there is no docker here"
docker version >/dev/null 2>&1 || fail "docker's daemon does not answer this user: $(docker version 2>&1 | tail -n 1)"
if [ -z "$force" ] && docker image inspect "$image" >/dev/null 2>&1; then
	say "$image is there already"
	exit 0
fi
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

if ! command -v debootstrap >/dev/null && ! [ -x /usr/sbin/debootstrap ]; then
	say "installing debootstrap"
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends debootstrap >/dev/null ||
		fail "debootstrap could not be installed, see above"
fi

# shellcheck disable=SC2016 # apt's own field
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 'Component: main' |
	head -n 1)
[ -n "$mirror" ] || fail "apt has no source of Debian's to take the mirror from"
proxy=$(apt-config shell proxy Acquire::http::Proxy)
eval "${proxy:-proxy=}"

root=$(mktemp -d)
trap 'as_root rm -rf "$root"' EXIT
say "making $image from $mirror (a minute or so)"
as_root env ${proxy:+http_proxy="$proxy"} PATH="$PATH:/usr/sbin:/sbin" debootstrap --variant=minbase "$suite" "$root/image" \
	"$mirror" >"$root/log" 2>&1 || {
	tail -n 5 "$root/log" >&2
	fail "debootstrap failed, see above"
}

# As Debian's own slim images: no documentation, no translations, no caches; and those that change from day to day emptied.
as_root sh -eu -c '
	cd "$1"
	for path in doc man info locale lintian; do
		printf "path-exclude /usr/share/%s/*\n" $path
		rm -rf usr/share/$path/*
	done >etc/dpkg/dpkg.cfg.d/slim
	printf "path-include /usr/share/doc/*/copyright\n" >>etc/dpkg/dpkg.cfg.d/slim
	[ -z "$2" ] || printf "Acquire::http::Proxy \"%s\";\n" "$2" >etc/apt/apt.conf.d/10proxy
	rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* var/cache/ldconfig/* var/cache/debconf/*-old var/lib/dpkg/*-old
	: >etc/machine-id
	printf "container\n" >etc/hostname
	rm -f etc/resolv.conf
' sh "$root/image" "$proxy"
as_root tar -C "$root/image" --sort=name -c . | docker import --change 'CMD ["bash"]' --message "debootstrap $suite" - "$image" >/dev/null
say "made $image"
