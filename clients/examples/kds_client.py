#!/usr/bin/python3
"""A client of kds-keydist with nothing but Python's ssl and protobuf (python3-protobuf, protobuf-compiler).

    kds_client.py --cert node1/kds.crt --key node1/kds.key --ca admin/infra-ca.crt health
    kds_client.py ...                                                              create urn:example:prjA
    kds_client.py ...                                                              restore IDENT

`create` prints ident and key in base64; `restore` takes that ident and prints the same key.
protoc compiles proto/ as this starts; KDS_PROTO names the folder where it is not beside the examples' own repository.
On the wire: TLS, then 8 bytes of SP greeting from each side, then frames of u64 length | u32 request id | message.
"""
import argparse, base64, importlib, os, pathlib, socket, ssl, struct, subprocess, sys, tempfile

PROTO = pathlib.Path(os.environ.get("KDS_PROTO", pathlib.Path(__file__).resolve().parents[2] / "proto"))
SP_REQ, SP_REP = 0x30, 0x31


def load_proto(*names):
    """The generated modules of proto/<name>.proto, made by protoc as we go."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(["protoc", "-I", PROTO, "--python_out", out] + [f"{n}.proto" for n in names], check=True)
        sys.path.insert(0, out)
        try:
            return [importlib.import_module(f"{n}_pb2") for n in names]
        except ImportError as error:
            raise SystemExit(f"load the protocol: {error}; install python3-protobuf and run with /usr/bin/python3")


class Client:
    def __init__(self, address, cert, key, ca, rpc):
        host, port = address.rsplit(":", 1)
        context = ssl.create_default_context(cafile=ca)  # verifies chain and host name
        context.load_cert_chain(cert, key)
        raw = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
        self.rpc, self.last_id, self.tls = rpc, 0, context.wrap_socket(raw, server_hostname=host.strip("[]"))
        uris = [value for kind, value in self.tls.getpeercert()["subjectAltName"] if kind == "URI"]
        if not any("/role/keydist/" in uri for uri in uris):
            raise SystemExit(f"{address} is no kds-keydist: {uris}")
        self.tls.sendall(struct.pack(">4sHH", b"\0SP\0", SP_REQ, 0))
        if self.read(8) != struct.pack(">4sHH", b"\0SP\0", SP_REP, 0):
            raise SystemExit(f"{address} does not speak SP REP")

    def read(self, n):
        data = b""
        while len(data) < n:
            part = self.tls.recv(n - len(data))
            if not part:
                raise SystemExit("the server closed the connection")
            data += part
        return data

    def call(self, method, message, answer):
        self.last_id += 1
        request = self.rpc.Request(method=method, payload=message.SerializeToString(), timeout_ms=5000)
        head = struct.pack(">I", 0x80000000 | self.last_id)
        body = head + request.SerializeToString()
        self.tls.sendall(struct.pack(">Q", len(body)) + body)
        body = self.read(struct.unpack(">Q", self.read(8))[0])
        response = self.rpc.Response.FromString(body[4:])
        if body[:4] != head or response.code != 0:
            raise SystemExit(f"{method}: {self.rpc.Code.Name(response.code)}: {response.message}")
        answer.ParseFromString(response.payload)
        return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cert", "key", "ca"):
        parser.add_argument(f"--{name}", required=True, metavar="FILE")
    parser.add_argument("--address", default="127.0.0.1:7420", metavar="HOST:PORT")
    parser.add_argument("action", choices=("health", "create", "restore"))
    parser.add_argument("argument", nargs="?", default="", help="group URI, or ident")
    args = parser.parse_args()
    rpc, health, keydist = load_proto("rpc", "health", "keydist")
    client = Client(args.address, args.cert, args.key, args.ca, rpc)
    if args.action == "health":
        print(client.call("Health.Check", health.CheckRequest(), health.CheckResponse()), end="")
        return
    if args.action == "create":
        key = client.call("KeyDist.Create", keydist.CreateKeyRequest(group=args.argument), keydist.GroupKey())
    else:
        ident = base64.b64decode(args.argument)
        key = client.call("KeyDist.Restore", keydist.RestoreKeyRequest(ident=ident), keydist.GroupKey())
    print("ident:", base64.b64encode(key.ident).decode())
    print("key:", base64.b64encode(key.key).decode())


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"kds_client.py {' '.join(sys.argv[1:])}: {error}")
