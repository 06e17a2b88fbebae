#!/usr/bin/env bash
# Looks for the secrets of its run in the memory of the running daemons, and asks whether a core of them can be made.
# ctest: timeout=300
. "$(dirname "$0")/../integration/lib.sh"
[ -z "$sanitized" ] || skip "a sanitizer keeps what was freed"
[ "$(id -u)" = 0 ] || skip "only root may read the memory of a process that makes no core"
cluster_up 1
tail -c 1 "/proc/${pid_of[serial1]}/maps" >/dev/null 2>&1 && head -c 0 "/proc/${pid_of[serial1]}/mem" 2>/dev/null ||
	skip "this root lacks CAP_SYS_PTRACE, without which it may not read the memory of others"

hex() { od -An -v -tx1 | tr -d ' \n'; }
reverse() { fold -w 2 | tac | tr -d '\n'; } # a number as GnuTLS's arithmetic holds it
# The 32 bytes of a P-256 key in DER, in hexadecimal. OpenSSL, as GnuTLS leaves out leading zeros or puts one more.
scalar() { openssl pkey -inform DER -outform DER | hex | sed -n 's/.*0201010420\([0-9a-f]\{64\}\).*/\1/p'; }
unhex() { python3 -c 'import sys; sys.stdout.buffer.write(bytes.fromhex(sys.stdin.read()))'; }
field() { json "$1" | base64 -d | hex; }

say "what there is to be found"
make_node node1.example.com urn:example:prjA
expect 0 as_client node1.example.com --json key create urn:example:prjA
group_key=$(field key <<<"$out")
expect 0 as_client node1.example.com key restore "$(json ident <<<"$out")"
as() { kds-cli --cert "$cluster/$1/service.crt" --key "$cluster/$1/service.key" "${@:2}"; } # DAEMON ARGUMENTS...
sealed_by() { # DAEMON PREFIX: the key of the first such object, and what is sealed in it
	expect 0 as "$1" --json call Config.List "{\"prefix\":\"$2\"}" --address "$net.1:7400"
	printf '%s %s' "$(json key <<<"$out")" "$(json sealedKey <<<"$out")"
}
read -r ca_name ca_sealed <<<"$(sealed_by ca1 ca/)"
read -r master_name master_sealed <<<"$(sealed_by keydist1 masterkey/)"
ca_der=$("$tests/unseal" "$cluster/ca1/ca.seal" "$ca_name" "$ca_sealed")
ca_scalar=$(unhex <<<"$ca_der" | scalar)
master=$("$tests/unseal" "$cluster/keydist1/keydist.seal" "$master_name" "$master_sealed")
assert_eq "digits of a masterKey" 128 ${#master}
assert_eq "digits of the CA's scalar" 64 ${#ca_scalar}

# What of a sealing key's file and of a daemon's own key may lie where, as lines for secrets.py. A key as GnuTLS holds it
# lies in its heap; texts and encodings that it came in must be gone.
seal_key() { # RULE FILE
	local text
	text=$(awk '/^kds-seal-1/ { print $3; exit }' "$2")
	printf '%s sealing-key %s\nnowhere sealing-key-text %s\n' "$1" "$(base64 -d <<<"$text" | hex)" "$(printf %s "${text:22}" | hex)"
}
own_key() { # DAEMON
	local file=$cluster/$1/service.key text key
	text=$(sed '/^-/d' "$file" | tr -d '\n')
	key=$(openssl pkey -in "$file" -outform DER | scalar)
	assert_eq "digits of the key of $1" 64 ${#key}
	# What is freed loses its first bytes to the list of free blocks.
	printf 'nowhere key-text %s\n' "$(printf %s "${text:48:40}" | hex)"
	der_piece key-der "$(base64 -d <<<"$text" | hex)"
	printf 'locked key %s\nlocked key-reversed %s\n' "$key" "$(reverse <<<"$key")"
}
# The part of a PKCS #8 that ends in the key's first half, with lengths before it that stand nowhere else.
der_piece() { printf 'nowhere %s %s\n' "$1" "${2:60:50}"; } # LABEL HEX

check() { # DAEMON: standard input as secrets.py takes it
	local status=0 found
	found=$(python3 "$source/tests/fault/secrets.py" "${pid_of[$1]}") || status=$?
	[ $status -eq 0 ] || fail "in the memory of $1: $found"
}

say "the certificates are read again"
for name in serial1 ca1 keydist1; do
	kill -HUP "${pid_of[$name]}"
	wait_for "$patience" "$name to read its certificate again" grep -q ' reloaded' "$work/$name.log"
done

say "nothing of the cluster's secrets in a replica, what the others need in locked memory alone"
grep -q 'memory: all is locked' "$work/ca1.log" || skip "memory cannot be locked here: $(grep -h -m1 'memory:' "$work/ca1.log")"
{
	own_key serial1
	seal_key nowhere "$cluster/ca1/ca.seal"
	seal_key nowhere "$cluster/keydist1/keydist.seal"
	printf 'nowhere ca %s\nnowhere ca-reversed %s\n' "$ca_scalar" "$(reverse <<<"$ca_scalar")"
	printf 'nowhere masterkey %s\nnowhere group-key %s\n' "$master" "$group_key"
} | check serial1
{
	own_key ca1
	seal_key locked "$cluster/ca1/ca.seal"
	der_piece ca-der "$ca_der"
	printf 'locked ca %s\nlocked ca-reversed %s\n' "$ca_scalar" "$(reverse <<<"$ca_scalar")"
} | check ca1
{
	own_key keydist1
	seal_key locked "$cluster/keydist1/keydist.seal"
	printf 'locked masterkey %s\nnowhere group-key %s\n' "$master" "$group_key"
} | check keydist1

say "no core can be made"
for name in serial1 ca1 keydist1; do
	assert_match "the limit of $name's cores" '^Max core file size +0 +0 ' "$(grep '^Max core' "/proc/${pid_of[$name]}/limits")"
done
# Of another user's process that makes no core /proc belongs to root.
stop keydist1
chmod 711 "$work" "$cluster"
chown -R 65534:65534 "$cluster/keydist1"
setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all --inh-caps=-all \
	"$bin/kds-keydist" --config "$(config_of keydist1)" >>"$work/keydist1.log" 2>&1 &
pid_of[keydist1]=$!
wait_healthy
assert_eq "whose user runs it" 65534 "$(awk '/^Uid:/ { print $2 }' "/proc/${pid_of[keydist1]}/status")"
assert_eq "who may see into it" 0 "$(stat -c %u "/proc/${pid_of[keydist1]}/mem")"
assert_match "what it says of a small limit" 'keys alone are locked' "$(grep 'memory:' "$work/keydist1.log" | tail -n 1)"
as_client node1.example.com key create urn:example:prjA >/dev/null
