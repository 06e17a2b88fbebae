#!/usr/bin/env bash
# What is wrong with a configuration is said in the first line, with what to do; --check-config finds the same, changes nothing.
. "$(dirname "$0")/lib.sh"
cluster_init 1

# Runs a daemon that must not start, both ways: broken NAME REGEX [both|start]. The message must match.
# "start": only a real start can know (a port in use).
broken() {
	local name=$1 regex=$2 how=${3:-both} program mode status complaints
	program=$(program_of "$name")
	for mode in --check-config ""; do
		[ "$how" = both ] || [ -z "$mode" ] || continue
		status=0
		timeout 20 "$program" --config "$(config_of "$name")" ${mode:+$mode} >"$work/out" 2>"$work/err" || status=$?
		if [ $status -ne 1 ] && [ $status -ne 2 ]; then
			fail "$program $mode: expected exit 1 or 2 for '$regex', got $status: $(tail -n 2 "$work/err")"
		fi
		# Before the log knows how: "kds-ca: ..."; afterwards a log line.
		complaints=$(grep -E '^kds-[a-z]+: |^[^ ]+ error ' "$work/err" || true)
		assert_match "the complaint of $program $mode" "$regex" "$complaints"
		assert_eq "complaints of $program $mode" 1 "$(wc -l <<<"$complaints")"
	done
}

# Changes a configuration for one check: edited NAME SED REGEX [how].
edited() {
	local file
	file=$(config_of "$1")
	cp "$file" "$work/saved"
	sed -i -E "$2" "$file"
	! cmp -s "$file" "$work/saved" || fail "the edit '$2' changed nothing in $file"
	broken "$1" "$3" "${4:-both}"
	cp "$work/saved" "$file"
}

for name in serial1 ca1 keydist1; do
	expect 0 "$(program_of $name)" --config "$(config_of $name)" --check-config
	expect 2 "$(program_of $name)"
	expect 2 "$(program_of $name)" --config "$(config_of $name)" --no-such-option
	expect 0 "$(program_of $name)" --help
	expect 0 "$(program_of $name)" --version

	say "$name: values"
	conf=kds-${name%1}.conf
	edited $name 's/^cluster = .*//' "cluster.*(not set|missing|required)|$conf.*cluster"
	edited $name 's/^listen = .*/listen = "nonsense:port"/' "listen"
	edited $name 's/^name = .*/name = "another1"/' "another1"
	edited $name 's/^kds-name = .*/no-such-option = 1/' "$conf:[0-9]+.*no-such-option"
	edited $name 's/^certificate = .*/certificate = "missing.crt"/' "missing.crt"
	edited $name 's/^key = .*/key = "missing.key"/' "missing.key"
	edited $name 's/^ca = .*/ca = "service.key"/' "option 'ca'"

	say "$name: files"
	chmod 644 "$cluster/$name/service.key"
	broken $name "service.key.*(others|0?600)"
	chmod 600 "$cluster/$name/service.key"
	for file in "$conf" infra-ca.crt service.crt .; do
		mode=$(stat -c %a "$cluster/$name/$file")
		chmod o+w "$cluster/$name/$file"
		broken $name "chmod go-w .*/$name"
		chmod "$mode" "$cluster/$name/$file"
	done
	if [ "$(id -u)" = 0 ]; then
		chown 64321 "$cluster/$name/service.key"
		broken $name "service.key: belongs to user 64321.*chown 0 "
		chown 0 "$cluster/$name/service.key"
	fi
	cp "$cluster/$name/service.key" "$work/service.key"
	openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt >"$cluster/$name/service.key"
	broken $name "service.(key|crt).*(belong|match)"
	cp "$work/service.key" "$cluster/$name/service.key"
	mv "$cluster/$name/infra-ca.crt" "$work/"
	broken $name "infra-ca.crt"
	mv "$work/infra-ca.crt" "$cluster/$name/"
done
status=0
kds-ca --config /nonexistent.conf >"$work/out" 2>"$work/err" || status=$?
[ $status -eq 1 ] || [ $status -eq 2 ] || fail "a configuration that is not there: exit $status"
assert_match "a configuration that is not there" "/nonexistent.conf" "$(<"$work/err")"

say "the data directory"
for name in serial1 keydist1; do
	chmod o+w "$cluster/$name/data"
	broken $name "chmod go-w .*/$name/data"
	chmod o-w "$cluster/$name/data"
done

say "kds-cli's own files"
for file in cli.conf infra-ca.crt admin.crt .; do
	mode=$(stat -c %a "$cluster/admin/$file")
	chmod o+w "$cluster/admin/$file"
	expect 2 kds-cli --timeout 1 cluster view
	assert_match "$file that others may write" "chmod go-w .*/admin" "$err"
	chmod "$mode" "$cluster/admin/$file"
done

say "sealing keys"
for name in ca1 keydist1; do
	seal=$cluster/$name/${name%1}.seal
	cp -p "$seal" "$work/seal"
	chmod 640 "$seal"
	broken $name "seal.*(others|0?600)"
	echo nonsense >"$seal"
	chmod 600 "$seal"
	broken $name "seal"
	rm "$seal"
	broken $name "seal"
	cp -p "$work/seal" "$seal"
done
expect 0 "$bin/kds-ca" --config "$(config_of ca1)" --check-config
[ -z "$(ls -A "$cluster/serial1/data")" ] || fail "--check-config made files: $(ls "$cluster/serial1/data")"

say "the state of another cluster, or of another replica"
start serial1
wait_for "$patience" "a leader" has_leader
stop serial1
edited serial1 's/^cluster-id = .*/cluster-id = "00000000-0000-4000-8000-000000000000"/' "(cluster|replica.db)"
broken_id() {
	sed -i -E 's/^id = 1/id = 2/; s/^\tid = 1/\tid = 2/' "$(config_of serial1)"
}
cp "$(config_of serial1)" "$work/conf"
broken_id
broken serial1 "(replica|id)"
cp "$work/conf" "$(config_of serial1)"
cp "$cluster/serial1/data/replica.db" "$work/replica.db"
printf 'this is no database, it is text that somebody put here by mistake' >"$cluster/serial1/data/replica.db"
rm -f "$cluster"/serial1/data/replica.db-*
broken serial1 "replica.db|database"
cp "$work/replica.db" "$cluster/serial1/data/replica.db"
expect 0 kds-serial --config "$(config_of serial1)" --check-config

say "a port in use; a second process on the same data"
start serial1
wait_for "$patience" "a leader" has_leader
broken serial1 "(in use|locked|another process|runs already)" start
sed -i -E "s/^listen = .*/listen = \"$net.1:7400\"/" "$(config_of ca1)"
broken ca1 "$net.1:7400.*in use" start
sed -i -E "s/^listen = .*/listen = \"$net.101:7410\"/" "$(config_of ca1)"

say "a sealing key of another cluster: only the cluster's state can show it; said, nothing signed, no key replaced"
start ca1 keydist1
create_ca
wait_healthy
authorities=$(kds-cli ca bundle)
expect 0 kds-cli node add node1.example.com
new_request "$work/node" node1.example.com
stop ca1
cp -p "$cluster/ca1/ca.seal" "$work/seal"
expect 0 kds-cli init --cluster other.example.com --kds-name key.other.example.com --dir "$work/other"
cp "$work/other/ca1/ca.seal" "$cluster/ca1/ca.seal"
start ca1
said() { kds-cli cluster health | grep -q 'ca.seal does not open'; }
wait_for "$patience" "kds-ca to say that its sealing key is the wrong one" said
expect 4 kds-cli --timeout 3 cert sign "$work/node.csr" --node node1.example.com # another kds-ca might have the key: callers go on
stop ca1
cp -p "$work/seal" "$cluster/ca1/ca.seal"
start ca1
wait_healthy
assert_eq "the cluster's CA" "$authorities" "$(kds-cli ca bundle)"
expect 0 kds-cli cert sign "$work/node.csr" --node node1.example.com

say "a certificate of another process"
stop ca1
cp "$cluster/keydist1/service.crt" "$cluster/keydist1/service.key" "$cluster/ca1/"
broken ca1 "service.crt.*kds-ca 'ca1'"
