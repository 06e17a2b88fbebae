#!/usr/bin/env python3
"""A hostile kds-ca: what its service certificate gets it, and what ca.seal adds (fault/insiders.sh).

    insider_ca.py STEP...

It goes by the name of ca1, the cluster's own kds-ca; ca9 is another one, with blocks of its own.
"""
import hashlib, os, pathlib, subprocess, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from insider import *

world, report = World(), Report("kds-ca")
me, ca9, keydist1 = world.service("ca1"), world.issued("ca9"), world.service("keydist1")
NODE, OTHER = "node1.example.com", "node2.example.com"
CA_NAME = "cluster.example.com default CA"


def put(who=me, **value):
    return world.ask_leader(who, "Config.Put", messages.PutRequest(object=messages.Object(**value)))


def delete(key):
    return world.ask_leader(me, "Config.Delete", messages.DeleteRequest(key=key))


def masterkeys(who):
    return world.ask_leader(who, "Config.List", messages.ListRequest(prefix="masterkey/")).value.objects


def writes():
    """What others write."""
    setting, node, service = messages.Setting, messages.Node, messages.Service
    for what, value in (("setting", setting(name="site.x", value="1")), ("node", node(name="spare.example.com"))):
        report.allowed(f"Config.Put of a {what} by the administrator", put(world.admin, **{what: value}))
    for what, value in (
        ("setting/site.mine", {"setting": setting(name="site.mine", value="x")}),
        ("setting/certificate.max-lifetime", {"setting": setting(name="certificate.max-lifetime", value="5m")}),
        ("a new node", {"node": node(name="evil.example.com", groups=["urn:example:prjA"])}),
        ("a node's groups", {"node": node(name=NODE, groups=["urn:example:prjC"])}),
        ("service/serial1", {"service": service(name="serial1", removed=True)}),
        ("service/admin", {"service": service(name="admin", removed=True)}),
        ("a masterKey", {"master_key": messages.MasterKey(published_ms=1, use_from_ms=1, sealed_key=b"x" * 101)}),
        ("serial/min", {"min_serial": messages.MinSerial(value=1)}),
        ("cluster", {"cluster": messages.Cluster(name="evil.example.com", kds_name="key.example.com", cluster_id="x")}),
        ("a replica", {"replica": messages.Replica(id=9, name="serial9", address="127.0.0.1:1")}),
    ):
        report.refused(f"Config.Put of {what}", put(**value), "PERMISSION_DENIED", "INVALID_ARGUMENT")
    keys = [o.key for o in masterkeys(me)]
    report.control("there is a masterKey", bool(keys), keys)
    others = ("setting/site.x", "service/serial1", "cluster", "serial/min", "replica/serial3")
    for key in (f"node/{NODE}", *others, keys[0]):
        report.refused(f"Config.Delete of {key}", delete(key), "PERMISSION_DENIED", "INVALID_ARGUMENT")
    for how in ({"all": True}, {"latest": True}, {"min_serial": 2}):
        report.refused(f"Serial.SetMin {how}", world.ask_leader(me, "Serial.SetMin", messages.SetMinRequest(**how)))
    request = messages.SignRequest(csr=world.csr(NODE), node=NODE)
    report.refused("Ca.Sign for a node", world.ask(me, world.ca, "Ca.Sign", request))
    call_everything(world, report, me, "ca", world.keydist)
    for at in world.replicas:
        call_everything(world, report, me, "ca", at)
        call_everything(world, report, me, "ca", at, behalf_of("admin", ADMIN, "admin"))
    call_peer_port(world, report, me)


def reads():
    """Sealed masterKeys, by every way to read; its own sealed key shows that there is something to be seen."""
    for what, method, message in (
        ("Config.List", "Config.List", messages.ListRequest()),
        ("Config.List local", "Config.List", messages.ListRequest(local=True)),
        ("Config.Watch", "Config.Watch", messages.WatchRequest()),
    ):
        objects = world.ask_leader(me, method, message, timeout_ms=1500).value.objects
        own, others = sealed_keys(objects, "ca/"), sealed_keys(objects, "masterkey/")
        report.control(f"{what}: its own sealed key", own == ["ca/default"], own)
        report.judge(f"{what}: sealed masterKeys", not others, others)
    key = masterkeys(me)[0].key
    for local in (False, True):
        get = messages.GetRequest(key=key, local=local)
        theirs = world.ask_leader(keydist1, "Config.Get", get).value.master_key.sealed_key
        report.control(f"Config.Get of {key} by kds-keydist", bool(theirs), f"{len(theirs)} bytes sealed")
        mine = world.ask_leader(me, "Config.Get", get).value.master_key.sealed_key
        report.judge(f"Config.Get of {key}", not mine, f"{len(mine)} bytes sealed")
    as_keydist = behalf_of("keydist1", KEYDIST, "keydist1")
    report.refused("Config.List on behalf of kds-keydist", world.ask_leader(me, "Config.List", behalf=as_keydist))
    for method in ("Config.History", "Backup.Position", "Backup.Read"):
        report.allowed(f"{method} by the administrator", world.ask_leader(world.admin, method))
        report.refused(method, world.ask_leader(me, method))
    entries = world.know("Config.History", messages.HistoryRequest(limit=1000)).entries
    sealed = sealed_keys([e.object for e in entries])
    report.judge("sealed keys in the history, also the administrator's", not sealed, sealed)


def seal(verb, purpose, data, file="ca1/ca.seal"):
    command = [f"{world.tests}/insider_seal", verb, f"{world.cluster}/{file}", purpose]
    return subprocess.run(command, input=data, capture_output=True)


def opens():
    """ca.seal on what kds-keydist's host sealed, and on its own keys under other names."""
    by_keydist = lambda o: seal("open", o.key, o.master_key.sealed_key, "keydist1/keydist.seal").returncode == 0
    key = next((o for o in masterkeys(keydist1) if by_keydist(o)), None)
    report.control("keydist.seal opens a masterKey", key is not None, key and key.key)
    came = seal("open", key.key, key.master_key.sealed_key)
    report.judge("ca.seal opens a masterKey", came.returncode == 1, came.stderr.decode())
    default = messages.GetRequest(key="ca/default")
    mine = world.ask_leader(me, "Config.Get", default).value.certificate_authority.sealed_key
    report.control("ca.seal opens ca/default", seal("open", "ca/default", mine).returncode == 0, "it does")
    for purpose in ("ca/other", key.key):
        came = seal("open", purpose, mine)
        report.judge(f"the CA's key taken for {purpose}", came.returncode == 1, came.stderr.decode())


def allocate(who, count):
    answer = world.ask_leader(who, "Serial.Allocate", messages.AllocateRequest(count=count))
    return report.allowed(f"Serial.Allocate of {count} by {who.name}", answer)


SERVICE = {"requester_serial": 0, "requester_issuer": b""}  # services ask without a certificate of a cluster CA


def record(serial, salt=b"", **fields):
    """Serial.Record of one certificate that node1 could have asked for, but for `fields`: the code of its result, with
    the reason that the replicas name."""
    now, issuer = int(time.time()), world.records(NODE)[0].issuer_key_id
    c = messages.IssuedCertificate(**{
        "serial": serial, "fingerprint": hashlib.sha256(b"%d" % serial + salt).digest(), "subject": NODE,
        "issuer_key_id": issuer, "not_before": now - 300, "not_after": now + 3600, "profile": "node",
        "requester": f"node/{NODE}", "requester_serial": world.serial(world.node(NODE)), "requester_issuer": issuer,
        **fields})
    answer = world.ask_leader(me, "Serial.Record", messages.RecordRequest(certificates=[c]))
    if answer.code != "OK":
        return answer
    result = answer.value.results[0]
    reasons = messages.RecordResult.DESCRIPTOR.fields_by_name["refusal"].enum_type.values_by_number
    reason = reasons[result.refusal].name.replace("RECORD_REFUSAL_", "")
    return Answer(Code.Name(result.code), f"{reason} {result.message}", c)


def refuse_record(what, answer, reason=""):
    report.judge(f"Serial.Record {what}", answer.code != "OK" and answer.message.startswith(reason), answer)


def records():
    """Records that no kds-ca may make."""
    now, mine, theirs = int(time.time()), allocate(me, 16), allocate(ca9, 16)
    first, spare = mine.first, mine.first + 1
    report.allowed("Serial.Record in its block", record(first))
    report.allowed("Serial.Record of the very same again", record(first))
    refuse_record("of the same serial for another certificate", record(first, b"another"), "TAKEN")
    refuse_record("of another kds-ca's block", record(theirs.first), "NO_BLOCK")
    refuse_record("of a serial that nobody has", record(theirs.last + 1000), "NO_BLOCK")
    refuse_record("of serial 0", record(0), "INVALID")
    refuse_record("of serial 2^63", record(1 << 63), "INVALID")
    refuse_record("for longer than 168 h", record(spare, not_after=now + 169 * 3600), "INVALID")
    refuse_record("of an expired one", record(spare, not_before=now - 7200, not_after=now - 60), "EXPIRED")
    refuse_record("of profile admin", record(spare, profile="admin"), "INVALID")
    refuse_record("for nobody", record(spare, requester=""), "INVALID")
    refuse_record("for a requester of no kind", record(spare, requester=NODE), "INVALID")
    refuse_record("for one node by another", record(spare, subject=OTHER), "INVALID")
    refuse_record("for a node whose certificate it does not name", record(spare, **SERVICE), "INVALID")
    stranger = record(spare, subject="nobody.example.com", requester="node/nobody.example.com")
    refuse_record("for a node that is not listed", stranger, "REQUESTER_UNKNOWN")
    world.cli("service", "remove", "gone")
    gone = record(spare, requester="admin/gone", **SERVICE)
    refuse_record("for a service that was removed", gone, "REQUESTER_UNKNOWN")
    made = sorted({r.serial for r in world.records()} & set(range(first, theirs.last + 1001)))
    report.judge("of all these one is on record", made == [first], made)
    old = world.serial(world.node(NODE))
    world.cli("serial", "set-min", "all")
    new = allocate(me, 16)
    refuse_record("below min_serial", record(spare), "BELOW_MIN")
    refuse_record("for a node below min_serial", record(new.first, requester_serial=old), "REQUESTER_BELOW_MIN")
    report.allowed("Serial.Record for the administrator", record(new.first + 1, requester="admin/admin", **SERVICE))
    world.renew(NODE, OTHER)


def another_authority(serial):
    """The certificate and key, in DER, of a CA of its own."""
    key, crt = f"{world.work}/another.key", f"{world.work}/another.crt"
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "300",
            "-keyout", key, "-out", crt, "-subj", f"/CN={CA_NAME}", "-set_serial", str(serial),
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    return (openssl("x509", "-in", crt, "-outform", "DER"),
            openssl("pkcs8", "-topk8", "-nocrypt", "-in", key, "-outform", "DER"))


def authority():
    """ca/default deleted, or replaced by a CA of its own. kds-ca does not run; what is gone is put back."""
    get = lambda: world.ask_leader(me, "Config.Get", messages.GetRequest(key="ca/default"))
    before = report.allowed("Config.Get of ca/default", get()).certificate_authority
    serial = allocate(me, 1).first
    certificate, key = another_authority(serial)
    sealed = seal("close", "ca/default", key).stdout
    opened = seal("open", "ca/default", sealed).stdout
    report.control("its own CA's key is sealed as ca/default's is", opened == key, f"{len(sealed)} bytes")

    def put_authority(certificate, sealed_key, **fields):
        value = messages.CertificateAuthority(name="default", certificate=certificate, sealed_key=sealed_key, **fields)
        return put(certificate_authority=value)

    def attempt(what, answer):
        after = get()
        kept = after.code == "OK" and after.value.certificate_authority == before
        report.judge(f"ca/default {what}", kept, answer)
        if not kept:
            report.note("ca/default put back", put_authority(before.certificate, before.sealed_key))

    attempt("replaced by one of its own, without ca.seal", put_authority(certificate, os.urandom(300)))
    attempt("replaced by one of its own, with ca.seal", put_authority(certificate, sealed))
    known = record(serial, fingerprint=hashlib.sha256(certificate).digest(), subject=CA_NAME, profile="ca",
                   not_after=int(time.time()) + 300 * 86400, requester="ca/ca1", **SERVICE)
    report.note("the record of its own CA", known)
    attempt("replaced by one of its own that is on record", put_authority(certificate, sealed))
    attempt("with its certificate and another key", put_authority(before.certificate, sealed))
    attempt("deleted", delete("ca/default"))


run_steps(report, writes, reads, opens, records, authority)
