#!/usr/bin/env bash
# Configuring with another version of libraft stops, and says what to do.
. "$(dirname "$0")/lib.sh"

version=$(pkg-config --modversion raft)
assert_eq "the installed libraft" 0.22.1 "$version"
mkdir "$work/pkgconfig"
pc=$(pkg-config --variable=pcfiledir raft)/raft.pc
for other in 0.15.0 0.22.0 0.23.0 1.0.0; do
	sed "s/^Version:.*/Version: $other/" "$pc" >"$work/pkgconfig/raft.pc"
	expect 1 env PKG_CONFIG_PATH="$work/pkgconfig" cmake -S "$source" -B "$work/build-$other" -G Ninja
	assert_match "the message for $other" "libraft 0.22.1 exactly, found '$other'" "$(tr -s '[:space:]' ' ' <<<"$err")"
	assert_match "what to do for $other" "deploy/install-deps.sh" "$err"
done
cp "$pc" "$work/pkgconfig/raft.pc"
expect 0 env PKG_CONFIG_PATH="$work/pkgconfig" cmake -S "$source" -B "$work/build-same" -G Ninja
