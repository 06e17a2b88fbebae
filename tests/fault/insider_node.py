#!/usr/bin/env python3
"""A hostile node: what its two certificates get it (fault/insiders.sh). insider_node.py STEP...

The script has made these nodes: node1, hostile, of groups prjA and prjB; node2, a good one, of prjB and prjC; and, for
the later steps, flood, moved and ca1, of prjA.
"""
import os, pathlib, re, signal, socket, ssl, subprocess, sys, threading, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from insider import *

world, report = World(), Report("node")
NODE1, NODE2, FLOOD, MOVED = (f"{name}.example.com" for name in ("node1", "node2", "flood", "moved"))
NAMESAKE = "ca1"
node1, kds1, node2, kds2 = world.node(NODE1), world.node(NODE1, "kds"), world.node(NODE2), world.node(NODE2, "kds")
GROUP = "urn:example:"


def request_of(name, **fields):
    return messages.SignRequest(**{"csr": world.csr(name), **fields})


def sign(who, name=NODE1, **fields):
    return world.ask(who, world.ca, "Ca.Sign", request_of(name, **fields), timeout_ms=8000)


def create(who, group):
    return world.ask(who, world.keydist, "KeyDist.Create", messages.CreateKeyRequest(group=GROUP + group))


def restore(who, ident):
    return world.ask(who, world.keydist, "KeyDist.Restore", messages.RestoreKeyRequest(ident=ident))


def limited(on):
    """The limits on how fast and how many certificates a node gets: back to their defaults, or out of the way."""
    for setting in sorted(set(re.findall(r"\blimit\.[a-z-]+", world.cli("config", "list")))):
        if on:
            world.cli("config", "unset", setting)
        elif subprocess.run(["kds-cli", "config", "set", setting, "off"], capture_output=True).returncode != 0:
            world.cli("config", "set", setting, "10000")


def make_csr(*arguments):
    return openssl("req", "-new", "-key", node1.key, *arguments)


def names():
    """Other names, roles, a CA's rights, a longer life."""
    report.allowed("Ca.Sign for itself", sign(node1))
    report.allowed(f"Ca.Sign for {NODE2} by the administrator", sign(world.admin, NODE2, node=NODE2))
    for name in (NODE2, "key.example.com", "ca1", "cluster.example.com", "*.example.com", NODE1.upper(), f"{NODE1}."):
        report.refused(f"Ca.Sign for {name}", sign(node1, node=name))
    report.refused("Ca.Sign with the kds-client certificate", sign(kds1))
    greedy = make_csr(
        "-subj", f"/O=kds/CN={NODE2}", "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
        "-addext", "extendedKeyUsage=serverAuth,clientAuth,OCSPSigning",
        "-addext", f"subjectAltName=DNS:{NODE2},DNS:key.example.com,IP:127.0.0.1,URI:{GROUP}prjC,"
        "URI:kds://cluster.example.com/role/admin/admin,URI:kds://cluster.example.com/role/ca/ca1")
    mine = {0: {f"DNS:{NODE1}"}, 1: {"DNS:key.example.com", f"URI:{GROUP}prjA#10s", f"URI:{GROUP}prjB"}}
    for profile in (0, 1):
        answer = sign(node1, csr=greedy, profile=profile)
        signed = report.allowed(f"profile {profile}: a request with everything in it", answer)
        extensions = "subjectAltName,basicConstraints,keyUsage,extendedKeyUsage"
        text = openssl("x509", "-noout", "-subject", "-ext", extensions, data=signed.certificate.encode()).decode()
        found = set(re.findall(r"(?:DNS|URI|IP Address|DirName|email):[^,\s]+", text))
        rights = re.search("CA:TRUE|Certificate Sign|CRL Sign|OCSP" + ("|Server" if profile == 1 else ""), text)
        subject = re.search(r"subject=\s*(.*\S)", text).group(1).replace(" ", "")
        good = found == mine[profile] and not rights and subject == f"CN={NODE1}"
        report.judge("and what stands in the certificate", good, text)
    sha1 = make_csr("-sha1", "-subj", f"/CN={NODE1}")
    key = f"{world.work}/weak.key"
    weak = openssl("req", "-new", "-newkey", "rsa:1024", "-nodes", "-keyout", key, "-subj", f"/CN={NODE1}")
    broken = bytearray(openssl("req", "-outform", "DER", data=world.csr(NODE1)))
    broken[-3] ^= 1
    for what, fields in (("profile 7", {"profile": 7}),
                         ("a lifetime of 168 h", {"lifetime_s": 168 * 3600}),
                         ("a lifetime of 2^32 - 1 s", {"lifetime_s": 2**32 - 1}),
                         ("a request without proof of its key", {"csr": bytes(broken)}),
                         ("a request signed with SHA-1", {"csr": sha1}),
                         ("an RSA key of 1024 bits", {"csr": weak})):
        report.refused(what, sign(node1, **fields), "INVALID_ARGUMENT")


def everything():
    """Every method of every daemon, in its own name and in others'."""
    for at in (world.ca, world.keydist, *world.replicas):
        call_everything(world, report, node1, "node", at)
        call_everything(world, report, kds1, "kds-client", at)
        call_everything(world, report, world.admin, "admin", at)
    for behalf in (behalf_of("admin", ADMIN, "admin"), behalf_of("ca1", CA, "ca1"), behalf_of(NODE2, NODE),
                   behalf_of(NODE2, KDS_CLIENT)):
        for at in (world.ca, world.keydist):
            call_everything(world, report, node1, "node", at, behalf)
            call_everything(world, report, kds1, "kds-client", at, behalf)
    call_peer_port(world, report, node1)
    call_peer_port(world, report, kds1)


def group_keys():
    """Keys of groups that its certificate does not name."""
    mine = report.allowed("a key of its own group prjB", create(kds1, "prjB"))
    same = report.allowed(f"the same for {NODE2}, of that group too", restore(kds2, mine.ident)).key == mine.key
    report.control("both have the same key", same, same)
    theirs = report.allowed(f"a key of prjC for {NODE2}", create(kds2, "prjC"))
    report.refused("a key of prjC", create(kds1, "prjC"))
    report.refused(f"{NODE2}'s key of prjC by its ident", restore(kds1, theirs.ident))
    report.refused("its own ident with prjC written into it", restore(kds1, mine.ident.replace(b"prjB", b"prjC")))
    for group in ("prj", "prjA#1s", "prjB/", "PRJB", "prjB,urn:example:prjC", ""):
        report.refused(f"a key of '{GROUP}{group}'", create(kds1, group), "PERMISSION_DENIED", "INVALID_ARGUMENT")
    report.refused("a key of its own group with the node certificate", create(node1, "prjB"))


def pose(who):
    """`who` as a TLS server, where a client of kds-keydist expects it: what the client sent first, and what it said."""
    config = pathlib.Path(f"{world.cluster}/admin/impostor.conf")
    text = pathlib.Path(f"{world.cluster}/admin/cli.conf").read_text()
    config.write_text(re.sub(r"(?m)^keydist-addresses.*$", f'keydist-addresses = {{"{world.net}.103:7420"}}', text))
    client = ["kds-cli", "--config", str(config), "--timeout", "3", "--cert", kds2.cert, "--key", kds2.key]
    client += ["key", "create", f"{GROUP}prjC"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(who.cert, who.key)
    with socket.create_server((f"{world.net}.103", 7420)) as server:
        server.settimeout(10)
        done = subprocess.Popen(client, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            with server.accept()[0] as raw:
                raw.settimeout(5)
                with context.wrap_socket(raw, server_side=True) as tls:
                    sent = tls.recv(8)
        except OSError:
            sent = b""
    return sent, done.communicate(timeout=30)[0]


def impostor():
    """Its certificates in front of a client that wants a group key: the client must not begin to speak."""
    sent, _ = pose(world.issued("keydist9"))
    report.control("another kds-keydist is spoken to", sent.startswith(b"\0SP"), sent)
    for who, what in ((kds1, "the kds-client certificate"), (node1, "the node certificate"),
                      (world.issued("ca9"), "a kds-ca's certificate")):
        sent, said = pose(who)
        report.judge(f"{what} as kds-keydist", not sent, said)


class Thief(threading.Thread):
    """Asks for certificates on one connection, `deep` requests at a time, until it is stopped or thrown out."""

    def __init__(self, who, deep, timeout_ms=8000):
        super().__init__(daemon=True)
        self.deep, self.timeout_ms, self.request = deep, timeout_ms, request_of(NODE1)
        self.stopped, self.answers, self.ended = False, [], "stopped"
        self.link = Link(world, who, world.ca)

    def run(self):
        try:
            for _ in range(self.deep):
                self.ask()
            while self.link.waiting:
                answer = self.link.collect()[1]
                self.answers.append(answer)
                if answer.code == "RESOURCE_EXHAUSTED":
                    time.sleep(0.002)
                if not self.stopped:
                    self.ask()
        except Refused as refused:
            self.ended = str(refused)
        self.link.tls.close()

    def ask(self):
        self.link.post("Ca.Sign", self.request, timeout_ms=self.timeout_ms)


def start_thieves(count, *arguments):
    threads = [Thief(node1, *arguments) for _ in range(count)]
    for t in threads:
        t.start()
    return threads


def stop_thieves(threads):
    for t in threads:
        t.stopped = True
    for t in threads:
        t.join(30)


def loot(threads):
    return [a.value for t in threads for a in list(t.answers) if a.code == "OK"]


def try_out(certificates):
    """How many of the newest 30 of these a daemon takes."""
    taken, file = 0, pathlib.Path(world.work) / "stolen.crt"
    for c in sorted(certificates, key=lambda c: c.serial)[-30:]:
        file.write_text(c.certificate)
        taken += world.ask(Identity("stolen", str(file), node1.key), world.ca, "Health.Check").code == "OK"
    return taken


def raise_min(how, paused):
    """Raises min_serial while a thief of node1's certificate asks for new ones: nothing comes of what fell below.
    `paused`: kds-ca stands still meanwhile, and hears of it with the thief's requests in its buffers already."""
    what = f"set-min {how}{' behind its back' if paused else ''}"
    threads = start_thieves(8, 200)
    wait_for(lambda: len(loot(threads)) >= 300, 10)
    report.control(f"{what}: the thief gets certificates before", len(loot(threads)) >= 20, len(loot(threads)))
    with Link(world, kds1, world.keydist) as keydist:
        key = messages.CreateKeyRequest(group=f"{GROUP}prjB")
        report.allowed(f"{what}: and group keys", keydist.call("KeyDist.Create", key))
        ca = int(os.environ["KDS_INSIDER_CA_PID"])
        if paused:
            os.kill(ca, signal.SIGSTOP)
        try:
            world.cli("serial", "set-min", how)
        finally:
            os.kill(ca, signal.SIGCONT)
        refused = wait_for(lambda: keydist.call("KeyDist.Create", key).code != "OK", 10)
        report.judge(f"{what}: a live connection to kds-keydist", refused, "gets no keys" if refused else "gets keys")
    gone = wait_for(lambda: not any(t.is_alive() for t in threads), 10)
    stop_thieves(threads)
    report.judge(f"{what}: {len(threads)} live connections to kds-ca", gone, {t.ended for t in threads})
    # "latest" spares the certificate that was signed last, which can be the thief's.
    least = world.know("Serial.Show").min_serial + (how == "latest")
    stolen = loot(threads)
    escaped = [c for c in stolen if c.serial >= least]
    report.judge(f"{what}: certificates from {least} on, asked for with one below", not escaped,
                 f"{len(escaped)} of {len(stolen)}; of their newest 30 are accepted: {try_out(escaped)}")
    report.refused(f"{what}: the certificate that asked", world.ask(node1, world.ca, "Health.Check"))
    below = [c for c in stolen if c.serial < least - (how == "latest")]
    taken = try_out(below)
    report.judge(f"{what}: those below, of which the newest 30 are tried", taken == 0, f"{taken} accepted")
    on_record = [r for r in world.records(NODE1) if r.serial >= least]
    report.judge(f"{what}: records of {NODE1} from {least} on", not on_record, len(on_record))
    world.renew(NODE1, NODE2)
    report.allowed(f"{what}: the renewed certificate gets one", sign(node1))


def thieves():
    limited(False)
    for how, paused in (("all", False), ("latest", False), ("all", True), ("latest", True)):
        raise_min(how, paused)
    limited(True)


def again():
    """One request id, one certificate."""
    request, id = request_of(NODE1), os.urandom(16)
    on_record = lambda: len(world.records(NODE1))
    connect = lambda who: Link(world, who, world.ca)
    with connect(node1) as a, connect(node1) as b, connect(node2) as other:
        one = report.allowed("Ca.Sign with a request id", a.call("Ca.Sign", request, request_id=id))
        before = on_record()
        for link, what in ((a, "the same connection"), (b, "another connection")):
            answer = link.call("Ca.Sign", request, request_id=id)
            came = f"serial {answer.value.serial} after {one.serial}" if answer.value else answer
            report.judge(f"the same again on {what}", answer.value == one, came)
        report.judge("records of these", on_record() == before, f"{on_record() - before} more")
        for what, fields in (("another profile", {"profile": 1}), ("another lifetime", {"lifetime_s": 7200}),
                             ("another key", {"csr": world.csr(NODE1, "kds")})):
            answer = a.call("Ca.Sign", request_of(NODE1, **fields), request_id=id)
            report.refused(f"{what} under the same id", answer, "INVALID_ARGUMENT")
        answer = other.call("Ca.Sign", request_of(NODE2), request_id=id)
        report.judge(f"under the same id {NODE2}'s own request", answer.code == "OK" and answer.value != one, answer)
        id, before = os.urandom(16), on_record()
        for link in (a, b) * 5:
            link.post("Ca.Sign", request, request_id=id)
        came = []
        for link in (a, b):
            link.tls.settimeout(3)  # what is answered already need not be answered twice
            try:
                while link.waiting:
                    came.append(link.collect()[1])
            except Refused:
                pass
        certificates = {c.value.certificate for c in came if c.code == "OK"}
        report.judge("ten at a time under one id", on_record() == before + 1 and len(certificates) == 1,
                     f"{on_record() - before} records, {len(certificates)} certificates, {count_codes(came)}")


def short():
    """Certificates of one second; fault/insiders.sh also has a kds-ca three seconds behind: its have expired."""
    limited(False)
    before = world.know("Serial.Show").last_serial
    with Link(world, node1, world.ca) as link:
        answers = [a for _ in range(8) for a in link.burst("Ca.Sign", [request_of(NODE1, lifetime_s=1)] * 50)]
    codes, burned = count_codes(answers), world.know("Serial.Show").last_serial - before
    report.judge("400 certificates of one second", set(codes) == {"INVALID_ARGUMENT"}, f"{codes} {answers[-1].message}")
    report.judge("serials that they took", burned <= 2048, burned)  # a block or two may have been taken by the way
    report.allowed(f"{NODE2} is signed for", sign(node2, NODE2))
    limited(True)


def hurry():
    """Requests that nobody waits for longer than 15 ms, while another looks at the CA's health."""
    limited(False)
    threads, checks, bad, reasons = start_thieves(4, 50, 15), 20, 0, set()
    with Link(world, node2, world.ca) as link:
        for _ in range(checks):
            health = report_health(link)
            bad += not health.serving
            reasons.add(health.reason)
            time.sleep(0.15)
        stop_thieves(threads)
        codes = count_codes([a for t in threads for a in t.answers])
        report.control("15 ms deadlines: some expire", "DEADLINE_EXCEEDED" in codes or "UNAVAILABLE" in codes, codes)
        came = f"{bad} of {checks} {sorted(reasons - {''})}"
        report.judge("15 ms deadlines: health checks that say kds-ca does not serve", bad == 0, came)
        report.allowed(f"{NODE2} is signed for", link.call("Ca.Sign", request_of(NODE2)))
    limited(True)


def report_health(link):
    answer = link.call("Health.Check")
    if answer.code != "OK":
        raise SystemExit(f"Health.Check: {answer.code} {answer.message}")
    return answer.value


def flood():
    """3,000 certificates as fast as it can, and a good node that wants a few."""
    rate, answers, began = 20, [], time.monotonic()  # the default of limit.sign-rate; ten times as many at once

    def ask():
        with Link(world, world.node(FLOOD), world.ca, patience=60) as link:
            answers.extend(link.burst("Ca.Sign", [request_of(FLOOD)] * 375, timeout_ms=30000))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for t in threads:
        t.start()
    with Link(world, node2, world.ca) as link:
        others = [link.call("Ca.Sign", request_of(NODE2), timeout_ms=10000) for _ in range(5)]
    for t in threads:
        t.join()
    seconds, codes = time.monotonic() - began, count_codes(answers)
    came = f"{codes} in {seconds:.1f} s"
    report.control("3,000 requests: all are answered", len(answers) == 3000 and "OK" in codes, came)
    most = rate * 10 + rate * int(seconds + 1)
    good = codes["OK"] <= most and set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
    report.judge(f"3,000 requests: at most {most} are signed", good, codes)
    report.judge(f"meanwhile {NODE2}'s own five", all(a.code == "OK" for a in others), count_codes(others))


def moved():
    """node remove, and add of the same name with other groups; the old host has its connections and certificates."""
    node, kds, connect = world.node(MOVED), world.node(MOVED, "kds"), lambda who, at: Link(world, who, at)
    request, group = request_of(MOVED), messages.CreateKeyRequest(group=f"{GROUP}prjA")
    with connect(node, world.ca) as ca, connect(kds, world.keydist) as keydist, connect(kds, world.ca) as bundle:
        report.allowed("listed: a certificate", ca.call("Ca.Sign", request))
        ident = report.allowed("listed: a group key", keydist.call("KeyDist.Create", group)).ident
        former = messages.RestoreKeyRequest(ident=ident)
        report.allowed("listed: Ca.Bundle", bundle.call("Ca.Bundle"))
        world.cli("node", "remove", MOVED)
        signed = len(world.records(MOVED))
        for what, ask in (
            ("open connection: a certificate", lambda: ca.call("Ca.Sign", request)),
            ("open connection: a group key", lambda: keydist.call("KeyDist.Create", group)),
            ("open connection: a former group key", lambda: keydist.call("KeyDist.Restore", former)),
            ("open connection: Ca.Bundle", lambda: bundle.call("Ca.Bundle")),
            ("new connection: a certificate", lambda: sign(node, MOVED)),
            ("new connection: a group key", lambda: create(kds, "prjA")),
            ("new connection: Health.Check of kds-ca", lambda: world.ask(node, world.ca, "Health.Check")),
            ("new connection: Health.Check of kds-keydist", lambda: world.ask(kds, world.keydist, "Health.Check")),
        ):
            wait_for(lambda: ask().code != "OK", 4)
            report.refused(f"removed, {what}", ask(), "PERMISSION_DENIED", "NOT_FOUND", "UNAUTHENTICATED")
    more = len(world.records(MOVED)) - signed
    report.judge("records since it was removed", more == 0, more)
    world.cli("node", "add", MOVED, "--group", f"{GROUP}prjC")
    world.renew(MOVED)
    wait_for(lambda: create(kds, "prjC").code == "OK", 10)
    report.allowed("added again: the new host gets keys of its group", create(kds, "prjC"))
    report.refused("added again: and none of the group before", create(kds, "prjA"))


def namesake():
    """A node that is called as a kds-ca is."""
    node = world.node(NAMESAKE)
    own = report.allowed("node ca1 gets a certificate", sign(node, NAMESAKE)).serial
    one = messages.AllocateRequest(count=1)
    report.refused("node ca1 takes serials", world.ask(node, world.replicas[0], "Serial.Allocate", one))
    records = {r.serial: r for r in world.records()}
    asked = records[own]
    good = asked.requester == f"node/{NAMESAKE}" and asked.requester_serial == world.serial(node)
    report.judge("who asked for it, as its record says", good, f"{asked.requester}, with {asked.requester_serial}")
    services = {r.requester for r in records.values() if r.profile == "ca"}
    report.judge("kds-ca ca1 is called otherwise in its CA's record", asked.requester not in services, services)
    admin = records[world.serial(node)].requester
    report.judge("and so is the administrator", admin == "admin/admin", admin)
    entry = world.know("Config.History", messages.HistoryRequest(key=f"node/{NAMESAKE}")).entries[0]
    report.judge("who added it, as the history says", entry.requester == "admin/admin", entry.requester)


def aftermath():
    """The cluster is as good as before; every serial is on record once, and of nobody that does not exist."""
    world.renew(NODE2)
    own = report.allowed(f"{NODE2} gets a certificate", sign(node2, NODE2))
    key = report.allowed("and a group key", create(kds2, "prjC"))
    answer = restore(kds2, key.ident)
    report.judge("which it can get again", answer.code == "OK" and answer.value.key == key.key, answer)
    records = world.records()
    serials, prints = {r.serial for r in records}, {r.fingerprint for r in records}
    report.judge("every serial and every certificate is on record once", len(records) == len(serials) == len(prints),
                 f"{len(records)} records, {len(serials)} serials, {len(prints)} certificates")
    report.judge("the new one with them", own.serial in serials, own.serial)
    strange = {r.subject for r in records if r.profile != "ca"} - {NODE1, NODE2, FLOOD, MOVED, NAMESAKE}
    report.judge("and no name that is no node's", not strange, strange or "none")


run_steps(report, names, everything, group_keys, impostor, again, hurry, thieves, short, moved, namesake, flood,
          aftermath)
