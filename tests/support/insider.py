"""Somebody with real keys who tries what docs/security-model.md says they cannot: for tests/fault/insider_*.py.

A World is the running cluster of tests/integration/lib.sh, as the environment names it. A Link is one connection, a
Report prints one line for each attempt: who, what, what came. An attempt that succeeds although it must not is a
breach: a script goes on after it, and ends with status 1. A control is what must succeed, or a refusal beside it proves
nothing: a script ends where one fails. Takes Python's ssl, protobuf and protoc, as clients/examples/kds_client.py does.
"""
import importlib, os, pathlib, socket, ssl, struct, subprocess, sys, tempfile, time
from collections import namedtuple

SOURCE = pathlib.Path(__file__).resolve().parents[2]
REQ, PUSH = 0x30, 0x50  # SP protocols
REFUSED = "REFUSED"  # in place of a code: no connection, or it was closed

Identity = namedtuple("Identity", "name cert key")  # what it is called here, and the files
Answer = namedtuple("Answer", "code message value")
Method = namedtuple("Method", "name input output")  # the messages are classes


def load_proto():
    with tempfile.TemporaryDirectory() as out:
        files = sorted(f.name for f in (SOURCE / "proto").glob("*.proto"))
        subprocess.run(["protoc", "-I", SOURCE / "proto", "--python_out", out] + files, check=True)
        sys.path.insert(0, out)
        return [importlib.import_module(f[: -len(".proto")] + "_pb2") for f in files]


class messages:
    """Every message of proto/, by its name: messages.SignRequest."""


METHODS = {}  # every method of every service in proto/: "Ca.Sign"
modules = load_proto()
for module in modules:
    for name in module.DESCRIPTOR.message_types_by_name:
        setattr(messages, name, getattr(module, name))
for module in modules:
    for service in module.DESCRIPTOR.services_by_name.values():
        for m in service.methods:
            name = f"{service.name}.{m.name}"
            METHODS[name] = Method(name, getattr(messages, m.input_type.name), getattr(messages, m.output_type.name))
Code = next(m.Code for m in modules if hasattr(m, "Code"))

SERIAL, CA, KEYDIST, ADMIN, NODE, KDS_CLIENT = (1 << i for i in range(6))  # enum peer_role, common/net/identity.h

# Who may call what, as docs/security-model.md says. A new method belongs here, too: nobody's is refused to everybody.
EVERYONE = {"Health.Check", "Health.Echo", "Ca.Bundle"}
SERVICES = EVERYONE | {"Config.Get", "Config.List", "Config.Watch", "Serial.Show", "Serial.ListCertificates",
                       "Replicas.View", "Replicas.Members"}
MAY = {
    "node": EVERYONE | {"Ca.Sign"},
    "kds-client": EVERYONE | {"KeyDist.Create", "KeyDist.Restore", "KeyDist.List"},
    "ca": SERVICES | {"Serial.Allocate", "Serial.Record", "Config.Put", "Config.Delete"},
    "keydist": SERVICES | {"Config.Put", "Config.Delete"},
    "serial": SERVICES,
    "admin": SERVICES | {"Ca.Sign", "Ca.Create", "KeyDist.List", "Serial.SetMin", "Config.Put", "Config.Delete",
                         "Config.History", "Replicas.Add", "Replicas.SetVoter", "Replicas.Remove", "Replicas.Transfer",
                         "Backup.Position", "Backup.Read"},
}


def openssl(*arguments, data=None):
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True).stdout


def wait_for(condition, seconds):
    """Whether it became true within that time; looks ten times a second."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def behalf_of(common_name, roles, role_name=""):
    """A Caller, as a replica that passes a request on describes one."""
    return messages.Caller(common_name=common_name, roles=roles, role_name=role_name, serial=b"\x01",
                           issuer_key_id=b"\x01" * 20)


def sealed_keys(objects, prefix=""):
    """The keys of those that hold a sealed key."""
    return [o.key for o in objects
            if o.key.startswith(prefix) and (o.master_key.sealed_key or o.certificate_authority.sealed_key)]


class Refused(Exception):
    def __init__(self, error):
        super().__init__(getattr(error, "reason", None) or str(error))


class World:
    def __init__(self):
        names = ("CLUSTER", "WORK", "NET", "TESTS")
        self.cluster, self.work, self.net, self.tests = (os.environ["KDS_INSIDER_" + name] for name in names)
        self.ca_file = f"{self.cluster}/admin/infra-ca.crt"
        self.admin = Identity("admin", f"{self.cluster}/admin/admin.crt", f"{self.cluster}/admin/admin.key")
        self.replicas = [f"{self.net}.{i}:7400" for i in (1, 2, 3)]
        self.ca, self.keydist = f"{self.net}.101:7410", f"{self.net}.102:7420"

    def service(self, name):
        """ "ca1": a daemon of this cluster."""
        return Identity(name, f"{self.cluster}/{name}/service.crt", f"{self.cluster}/{name}/service.key")

    def issued(self, name):
        """ "ca9": one whose certificate the script had issued."""
        return Identity(name, f"{self.work}/{name}.crt", f"{self.work}/{name}.key")

    def node(self, name, kind="node"):
        """As make_node of lib.sh left it; "kds": its key distribution client."""
        return Identity(f"{name} ({kind})", f"{self.work}/{name}/{kind}.crt", f"{self.work}/{name}/{kind}.key")

    def csr(self, name, kind="node"):
        return pathlib.Path(f"{self.work}/{name}/{kind}.csr").read_bytes()

    def serial(self, who):
        """Of its certificate."""
        return int(openssl("x509", "-in", who.cert, "-noout", "-serial").decode().split("=")[1], 16)

    def cli(self, *arguments):
        """What kds-cli prints for the administrator."""
        done = subprocess.run(["kds-cli", *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"kds-cli {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def renew(self, *nodes):
        """New certificates for both keys of each node, from the administrator."""
        for name in nodes:
            for kind, profile in (("node", "node"), ("kds", "kds-client")):
                csr = f"{self.work}/{name}/{kind}.csr"
                pem = self.cli("cert", "sign", csr, "--node", name, "--profile", profile)
                pathlib.Path(f"{self.work}/{name}/{kind}.crt").write_text(pem)

    def ask(self, who, address, method, message=None, **options):
        """One call on a connection of its own."""
        try:
            with Link(self, who, address) as link:
                return link.call(method, message, **options)
        except Refused as refused:
            return Answer(REFUSED, str(refused), None)

    def ask_leader(self, who, method, message=None, **options):
        """The same at the replica that leads: one that does not may have it passed on, or say UNAVAILABLE."""
        for _ in range(40):
            for address in self.replicas:
                answer = self.ask(who, address, method, message, **options)
                down = "Connection refused" in answer.message
                if answer.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and not down:
                    return answer
            time.sleep(0.25)
        return answer

    def know(self, method, message=None):
        """What the replicas tell the administrator."""
        answer = self.ask_leader(self.admin, method, message)
        if answer.code != "OK":
            raise SystemExit(f"{method} as the administrator: {answer.code} {answer.message}")
        return answer.value

    def records(self, subject=""):
        """All records of issued certificates, or those of one common name."""
        found, after = [], 0
        while True:
            request = messages.ListCertificatesRequest(after_serial=after, limit=1000, subject=subject)
            page = self.know("Serial.ListCertificates", request)
            found += page.certificates
            if not page.more:
                return found
            after = page.certificates[-1].serial


class Link:
    """One connection: TLS as `who`, the SP greeting, then calls, which may overlap. Refused is raised where it is not
    let in or is closed. One thread."""

    def __init__(self, world, who, address, speaks=REQ, patience=15):
        host, port = address.rsplit(":", 1)
        context = ssl.create_default_context(cafile=world.ca_file)
        context.load_cert_chain(who.cert, who.key)
        self.last, self.buffer, self.waiting = 0, bytearray(), {}
        try:
            raw = socket.create_connection((host, int(port)), timeout=patience)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.tls = context.wrap_socket(raw, server_hostname=host)
            self.tls.sendall(struct.pack(">4sHH", b"\0SP\0", speaks, 0))
        except OSError as error:
            raise Refused(error) from error
        self.read(8)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tls.close()

    def read(self, n):
        try:
            while len(self.buffer) < n:
                part = self.tls.recv(1 << 16)
                if not part:
                    raise Refused("the connection was closed")
                self.buffer += part
        except OSError as error:
            raise Refused(error) from error
        data = bytes(self.buffer[:n])
        del self.buffer[:n]
        return data

    def read_frame(self):
        return self.read(struct.unpack(">Q", self.read(8))[0])

    def send_frame(self, body):
        try:
            self.tls.sendall(struct.pack(">Q", len(body)) + body)
        except OSError as error:
            raise Refused(error) from error

    def post(self, method, message=None, timeout_ms=5000, request_id=b"", behalf=None):
        """Sends one request; returns its number."""
        self.last += 1
        self.waiting[self.last] = method
        payload = message.SerializeToString() if message is not None else b""
        request = messages.Request(method=method, payload=payload, timeout_ms=timeout_ms, request_id=request_id,
                                   on_behalf_of=behalf)
        self.send_frame(struct.pack(">I", 0x80000000 | self.last) + request.SerializeToString())
        return self.last

    def collect(self):
        """The next answer that comes: number, Answer."""
        body = self.read_frame()
        number = struct.unpack(">I", body[:4])[0] & 0x7FFFFFFF
        response = messages.Response.FromString(body[4:])
        output = METHODS[self.waiting.pop(number)].output
        value = output.FromString(response.payload) if response.code == 0 else None
        return number, Answer(Code.Name(response.code), response.message, value)

    def call(self, method, message=None, **options):
        """The answer; REFUSED where the connection is closed before it."""
        try:
            number, got = self.post(method, message, **options), None
            while got != number:
                got, answer = self.collect()
            return answer
        except Refused as refused:
            return Answer(REFUSED, str(refused), None)

    def burst(self, method, requests, **options):
        """All of `requests` at once; their answers as they came, and REFUSED for those that never did."""
        answers = []
        try:
            for message in requests:
                self.post(method, message, **options)
            while self.waiting:
                answers.append(self.collect()[1])
        except Refused as refused:
            answers += [Answer(REFUSED, str(refused), None)] * (len(requests) - len(answers))
        return answers


def count_codes(answers):
    codes = [a.code for a in answers]
    return {code: codes.count(code) for code in sorted(set(codes))}


class Report:
    def __init__(self, who):
        self.who, self.breaches, self.attempts = who, 0, 0

    def line(self, mark, what, came):
        if isinstance(came, Answer):
            came = f"{came.code} {came.message}"
        print(f"{mark:<7} {self.who:<12} {what}: {' '.join(str(came).split())[:230]}", flush=True)

    def judge(self, what, good, came):
        """An attempt, and whether it ended as it must."""
        self.attempts += 1
        self.breaches += not good
        self.line("ok" if good else "BREACH", what, came)

    def refused(self, what, answer, *codes):
        """One that must be refused: by a closed connection, PERMISSION_DENIED, or with one of `codes`."""
        self.judge(what, answer.code in (REFUSED, *(codes or ("PERMISSION_DENIED",))), answer)

    def control(self, what, good, came):
        self.line("control", what, came)
        if not good:
            raise SystemExit(f"{self.who}: a control failed, so no refusal beside it proves anything: {what}: {came}")

    def allowed(self, what, answer):
        """A call that must succeed; what it answered."""
        self.control(what, answer.code == "OK", answer)
        return answer.value

    def note(self, what, came):
        self.line("note", what, came)

    def end(self):
        print(f"        {self.who}: {self.attempts} attempts, {self.breaches} breaches", flush=True)
        sys.exit(1 if self.breaches else 0)


def run_steps(report, *steps):
    """Those that the arguments name, in their order."""
    named = {step.__name__: step for step in steps}
    for argument in sys.argv[1:]:
        named[argument]()
    report.end()


def call_everything(world, report, who, role, at, behalf=None):
    """Calls every method at one daemon: what `role` may not call must be refused, or not be there; in somebody else's
    name nothing is let in. The requests are empty, so that none changes anything."""
    named = f"every method at {at}{f' on behalf of {behalf.common_name}' if behalf else ''}"
    try:
        link = Link(world, who, at)
    except Refused as refused:
        report.judge(f"{role}: {named}", role in ("node", "kds-client"), f"{REFUSED} {refused}")
        return
    let_in, shut, leaks = [], [], []
    with link:
        for method in METHODS.values():
            # The one that acts on an empty request.
            transfer = method.name == "Replicas.Transfer"
            request = messages.TransferRequest(name="nobody") if transfer else method.input()
            code = link.call(method.name, request, timeout_ms=1500, behalf=behalf).code
            if code == "UNIMPLEMENTED":
                continue
            if method.name in MAY[role] and not behalf:
                (shut if code in ("PERMISSION_DENIED", REFUSED) else let_in).append(f"{method.name}={code}")
            elif code != "PERMISSION_DENIED":
                leaks.append(f"{method.name}={code}")
    if not behalf:
        report.control(f"{role}: its own methods at {at}", let_in and not shut, " ".join(shut or let_in))
    report.judge(f"{role}: {named}", not leaks, " ".join(leaks) or "PERMISSION_DENIED for all others")


def call_peer_port(world, report, who):
    """A replica's port for the other replicas, whose streams change the cluster's leader."""
    at = world.replicas[0].replace(":7400", ":7401")
    try:
        with Link(world, who, at, speaks=PUSH, patience=5) as link:
            link.send_frame(messages.PeerMessage(hello=messages.PeerHello(version=1)).SerializeToString())
            came = f"heard {link.read_frame()}"
    except Refused as refused:
        came = str(refused)
    report.judge(f"{who.name} at a peer port", not came.startswith("heard") and "timed out" not in came, came)
