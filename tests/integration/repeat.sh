#!/usr/bin/env bash
# One request id, one certificate: a repeated Ca.Sign gets the same bytes; with another request it is refused.
. "$(dirname "$0")/lib.sh"
cluster_up 1
make_node node1.example.com urn:example:prjA

cat >"$work/sign.py" <<'END'
import os, socket, ssl, struct, sys
sys.path.insert(0, os.path.join(sys.argv[1], "clients/examples"))
import kds_client
ca_pb2, rpc = kds_client.load_proto("ca", "rpc")
address, folder, infra, request_id, lifetime = sys.argv[2:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.load_verify_locations(infra)
context.load_cert_chain(folder + "/node.crt", folder + "/node.key")
host, port = address.rsplit(":", 1)
tls = context.wrap_socket(socket.create_connection((host, int(port)), timeout=10))
stream = tls.makefile("rwb")
stream.write(b"\0SP\0\0\x30\0\0"); stream.flush()
assert stream.read(8) == b"\0SP\0\0\x31\0\0"
payload = ca_pb2.SignRequest(csr=open(folder + "/node.csr", "rb").read(), lifetime_s=int(lifetime)).SerializeToString()
envelope = rpc.Request(method="Ca.Sign", payload=payload, timeout_ms=8000, request_id=request_id.encode()).SerializeToString()
stream.write(struct.pack(">QI", 4 + len(envelope), 0x80000001) + envelope); stream.flush()
length, number = struct.unpack(">QI", stream.read(12))
answer = rpc.Response.FromString(stream.read(length - 4))
if answer.code:
    sys.exit(f"{rpc.Code.Name(answer.code)}: {answer.message}")
print(ca_pb2.SignResponse.FromString(answer.payload).certificate)
END
ask() { /usr/bin/python3 "$work/sign.py" "$source" "$net.101:7410" "$work/node1.example.com" "$cluster/admin/infra-ca.crt" "$@"; }

expect 0 ask first 3600
first=$out
sleep 1.1 # its times are the record's
expect 0 ask first 3600
assert_eq "the certificate of the repeated request" "$first" "$out"
stop ca1
start ca1
wait_healthy
expect 0 ask first 3600
assert_eq "the certificate from a kds-ca that was started anew" "$first" "$out"
expect 1 ask first 7200
assert_match "the same id with another request" "INVALID_ARGUMENT" "$err"
expect 0 ask second 3600
assert_ne "another id" "$first" "$out"
expect 0 kds-cli node add node1.example.com --replace --address 192.0.2.9 --group urn:example:prjA
expect 1 ask first 3600
assert_match "a node that was changed since" "ABORTED.*new request id" "$err"
