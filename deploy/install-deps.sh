#!/usr/bin/env bash
# Installs the packages that KDS is built from, with --tests those that its tests need, with --bench
# those of some benchmarks: the one place that names them.
# Does nothing when all are there. Knows Debian 12 and 13; names no mirror: it uses those that apt is configured with.
set -eu

usage() {
	cat <<-END
	usage: deploy/install-deps.sh [--tests] [--bench] [--print]

	Installs what KDS is built from (Debian 12 and 13), with sudo when not root.
	  --tests   also what the tests need
	  --bench   also what the benchmarks beside etcd need
	  --print   only print the packages' names, one a line
	END
}

build=(
	gcc libc6-dev cmake ninja-build pkg-config protobuf-c-compiler protobuf-compiler
	libprotobuf-c-dev libnng-dev libgnutls28-dev libuv1-dev libsqlite3-dev libconfuse-dev libjansson-dev libraft-dev
	openssl # the quickstart's second opinion on certificates
)
tests=(libcmocka-dev gnutls-bin python3 python3-protobuf sqlite3 binutils)
bench=(libnghttp2-dev)

# The replicator relies on facts measured on this version (cmake/Libraries.cmake refuses others).
raft_version=0.22.1

packages=("${build[@]}")
print=
for argument in "$@"; do
	case $argument in
	--tests) packages+=("${tests[@]}") ;;
	--bench) packages+=("${bench[@]}") ;;
	--print) print=1 ;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
done
if [ -n "$print" ]; then
	printf '%s\n' "${packages[@]}"
	exit 0
fi

say() { printf 'install-deps: %s\n' "$*"; }
fail() { printf 'install-deps: %s\n' "$*" >&2; exit 1; }

# Prints those of the packages that are not installed, libraft also when it is another version.
missing() {
	dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' "${packages[@]}" 2>/dev/null |
		awk -v raft="$raft_version" -v wanted="${packages[*]}" '
			$1 == "installed" && ($2 != "libraft-dev" || index($3, raft "-") == 1) { have[$2] = 1 }
			END { n = split(wanted, w, " "); for (i = 1; i <= n; i++) if (!(w[i] in have)) print w[i] }'
}

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

# Runs apt-get with its output in a file that is shown only when it fails.
apt_get() {
	if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		fail "apt-get $* failed, see above; mend what it says (network? mirror? another apt running?) and run this again"
	fi
}

# The libraft-dev of the version we need, as apt could install it now; empty: none.
raft_candidate() {
	apt-cache madison libraft-dev | awk -F ' *[|] *' -v raft="$raft_version" 'index($2, raft "-") == 1 { print $2; exit }'
}

# Prints an apt source like the one that CODENAME's main packages come from, same mirror, keys and options, for another suite.
# $1: codename, $2: the other suite. First line: the extension of the file that it belongs in.
source_for_suite() {
	local entry file number suite
	# shellcheck disable=SC2016 # apt's own fields
	entry=$(apt-get indextargets --format '$(SOURCESENTRY)|$(RELEASE)' \
		'Created-By: Packages' 'Origin: Debian' 'Label: Debian' "Codename: $1" 'Component: main' | head -n 1)
	[ -n "$entry" ] || return 1
	suite=${entry##*|}
	entry=${entry%|*}
	file=${entry%:*}
	number=${entry##*:}
	case $file in
	*.sources)
		echo sources
		awk -v number="$number" -v suite="$2" '
			/^[ \t]*$/ { if (types) seen++; types = 0; text = ""; next }
			/^#/ { next }
			/^[^ \t]/ { dropping = 0 }
			tolower($0) ~ /^types:/ { types = 1; $0 = "Types: deb" }
			tolower($0) ~ /^components:/ { dropping = 1; text = text "Components: main\n" }
			tolower($0) ~ /^suites:/ { dropping = 1; text = text "Suites: " suite "\n" }
			!dropping { text = text $0 "\n" }
			types && seen + 1 == number { found = text }
			END { printf "%s", found }' "$file"
		;;
	*)
		echo list
		sed -n "${number}p" "$file" |
			sed -E "s|^[[:space:]]*(deb([[:space:]]+\[[^]]*\])?[[:space:]]+[^[:space:]]+)[[:space:]]+${suite}[[:space:]].*|\1 $2 main|"
		;;
	esac
}

# Debian 12 has this libraft in its backports alone.
add_backports() {
	local codename text extension path
	# shellcheck disable=SC1091
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-unknown}")
	[ "$codename" = bookworm ] ||
		fail "apt offers no libraft $raft_version here ($codename); Debian 13 has it, and bookworm-backports for Debian 12"
	text=$(source_for_suite bookworm bookworm-backports) || text=
	[[ $text == *$'\n'*bookworm-backports* ]] ||
		fail "no apt source of Debian bookworm found to derive its backports from; add bookworm-backports to apt's sources yourself"
	extension=${text%%$'\n'*}
	text=${text#*$'\n'}
	path=/etc/apt/sources.list.d/kds-backports.$extension
	say "libraft $raft_version is in bookworm-backports, which apt does not know yet; adding $path:"
	printf '%s\n' "$text" | sed '/^ /d; s/^/    /'
	printf '%s\n' "$text" | as_root tee "$path" >/dev/null
	as_root chmod 644 "$path"
	apt_get update
}

main() {
	local wanted version library
	command -v dpkg-query >/dev/null ||
		fail "this machine has no dpkg; install the equivalents of: ${packages[*]} (libraft $raft_version exactly)"
	mapfile -t wanted < <(missing)
	[ ${#wanted[@]} -gt 0 ] || return 0
	[ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
		fail "needs root to install ${wanted[*]}, and there is no sudo: run it once as root"

	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	say "needs ${wanted[*]}"
	apt_get update
	if printf '%s\n' "${wanted[@]}" | grep -qx libraft-dev; then
		[ -n "$(raft_candidate)" ] || add_backports
		version=$(raft_candidate)
		[ -n "$version" ] || fail "apt offers no libraft-dev $raft_version after its update; is the mirror complete?"
		# Its library by name and version too: apt would not follow into backports for a dependency by itself.
		library=$(apt-cache show "libraft-dev=$version" | sed -n -E 's/^Depends: .*(libraft[0-9]+) \(= .*/\1/p' | head -n 1)
		mapfile -t wanted < <(printf '%s\n' "${wanted[@]}" | sed "s/^libraft-dev\$/libraft-dev=$version/")
		[ -z "$library" ] || wanted+=("$library=$version")
	fi
	say "installing (this can take a few minutes)"
	apt_get install --no-install-recommends --allow-downgrades "${wanted[@]}"
	mapfile -t wanted < <(missing)
	[ ${#wanted[@]} -eq 0 ] || fail "still missing after the installation: ${wanted[*]}"
	say "done"
}

main
