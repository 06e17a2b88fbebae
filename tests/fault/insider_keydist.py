#!/usr/bin/env python3
"""A hostile kds-keydist: what its service certificate gets it (fault/insiders.sh). insider_keydist.py STEP...

`spoil` puts masterKeys that nobody can open: that must not stop rotation. `rotation` looks, a minute later.
"""
import os, pathlib, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from insider import *

world, report = World(), Report("kds-keydist")
me, ca1, kds1 = world.service("keydist1"), world.service("ca1"), world.node("node1.example.com", "kds")
SPOILED = pathlib.Path(world.work) / "spoiled"
YEAR_MS = 365 * 86400 * 1000


def put(**value):
    return world.ask_leader(me, "Config.Put", messages.PutRequest(object=messages.Object(**value)))


def trespass():
    """Serials, records, CAs, nodes, settings, services."""
    one = messages.AllocateRequest(count=1)
    report.allowed("Serial.Allocate by kds-ca", world.ask_leader(ca1, "Serial.Allocate", one))
    report.refused("Serial.Allocate", world.ask_leader(me, "Serial.Allocate", one))
    record = messages.IssuedCertificate(serial=2, fingerprint=b"x" * 32, subject="x", issuer_key_id=b"x", not_after=1,
                                        profile="node", requester="x")
    records = messages.RecordRequest(certificates=[record])
    report.refused("Serial.Record", world.ask_leader(me, "Serial.Record", records))
    report.refused("Serial.SetMin", world.ask_leader(me, "Serial.SetMin", messages.SetMinRequest(all=True)))
    answer = world.ask_leader(me, "Config.Get", messages.GetRequest(key="ca/default"))
    authority = report.allowed("Config.Get of ca/default", answer).certificate_authority
    lifespan = messages.Setting(name="masterkey.lifespan", value="1h")
    for what, value in (("ca/default", {"certificate_authority": authority}),
                        ("node/evil.example.com", {"node": messages.Node(name="evil.example.com")}),
                        ("setting/masterkey.lifespan", {"setting": lifespan}),
                        ("service/ca1", {"service": messages.Service(name="ca1", removed=True)})):
        report.refused(f"Config.Put of {what}", put(**value))
    for key in ("ca/default", "node/node1.example.com", "setting/masterkey.interval", "service/ca1"):
        answer = world.ask_leader(me, "Config.Delete", messages.DeleteRequest(key=key))
        report.refused(f"Config.Delete of {key}", answer)
    for at in world.replicas:
        call_everything(world, report, me, "keydist", at)
        call_everything(world, report, me, "keydist", at, behalf_of("admin", ADMIN, "admin"))
        call_everything(world, report, me, "keydist", at, behalf_of("ca1", CA, "ca1"))
    call_everything(world, report, me, "keydist", world.ca)
    call_peer_port(world, report, me)


def reads():
    """The CA's sealed key, by every way to read; its own sealed keys show that there is something to be seen."""
    for method, message in (("Config.List", messages.ListRequest()), ("Config.List", messages.ListRequest(local=True)),
                            ("Config.Watch", messages.WatchRequest())):
        objects = world.ask_leader(me, method, message, timeout_ms=1500).value.objects
        own, others = sealed_keys(objects, "masterkey/"), sealed_keys(objects, "ca/")
        report.control(f"{method}: sealed masterKeys", bool(own), own)
        report.judge(f"{method}: sealed CA keys", not others, others)
    default = messages.GetRequest(key="ca/default")
    theirs = world.ask_leader(ca1, "Config.Get", default).value.certificate_authority.sealed_key
    report.control("Config.Get of ca/default by kds-ca", bool(theirs), f"{len(theirs)} bytes sealed")
    mine = world.ask_leader(me, "Config.Get", default).value.certificate_authority.sealed_key
    report.judge("Config.Get of ca/default", not mine, f"{len(mine)} bytes sealed")


def hoard():
    """Waits for news of one replica as often as it can: others can wait all the same."""
    at, prefixes = world.replicas[0], ["setting/site."]
    revision = world.ask(me, at, "Config.Watch", messages.WatchRequest()).value.revision
    news = messages.WatchRequest(since_revision=revision, prefixes=prefixes)
    ask = lambda who: world.ask(who, at, "Config.Watch", news, timeout_ms=1000)
    report.allowed("Config.Watch by kds-ca", ask(ca1))
    links = [Link(world, me, at) for _ in range(4)]
    for link in links:
        for _ in range(3000):
            link.post("Config.Watch", news, timeout_ms=60000)
    for link in links:
        link.call("Health.Check")  # what was sent before it has been taken in, or refused
    for who in (ca1, world.admin):
        answer = ask(who)
        report.judge(f"12,000 of its Config.Watch, and one by {who.name}", answer.code == "OK", answer)
    for link in links:
        link.tls.close()


def create():
    return world.ask(kds1, world.keydist, "KeyDist.Create", messages.CreateKeyRequest(group="urn:example:prjB"))


def published():
    """When the masterKeys were published that answer, and when the one for new keys was."""
    keys = report.allowed("KeyDist.List", world.ask(kds1, world.keydist, "KeyDist.List")).master_keys
    return [k.published_ms for k in keys], max([k.published_ms for k in keys if k.current], default=0)


def alarms():
    return list(world.ask(kds1, world.keydist, "Health.Check").value.alarms)


def spoil():
    """MasterKeys that no seal opens: of now, and of a year ahead."""
    # Keys of the interval that is in force answer for long enough.
    wait_for(lambda: published()[1] > (time.time() - 120) * 1000, 20)
    before = report.allowed("a group key before", create())
    report.control("its health before", not alarms(), alarms() or "no alarm")
    now = int(time.time() * 1000)
    for when, ms in (("now", now), ("in a year", now + YEAR_MS)):
        answer = put(master_key=messages.MasterKey(published_ms=ms, use_from_ms=ms, sealed_key=os.urandom(101)))
        report.note(f"a masterKey that cannot be opened, published {when}", answer)
    SPOILED.write_text(str(now))
    wait_for(alarms, 10)
    report.judge("its health raises an alarm", bool(alarms()), alarms() or "none")
    answer = create()
    report.judge("others get group keys after it", answer.code == "OK", answer)
    answer = world.ask(kds1, world.keydist, "KeyDist.Restore", messages.RestoreKeyRequest(ident=before.ident))
    report.judge("and those from before it", answer.code == "OK" and answer.value.key == before.key, answer)


def rotation():
    """masterkey.interval is a minute. Then the one that nobody can open goes, and with it the alarm."""
    spoiled = int(SPOILED.read_text())
    newer = lambda: [ms for ms in published()[0] if ms > spoiled]
    while not newer() and time.time() < spoiled / 1000 + 75:
        time.sleep(1)
    came = newer()
    report.judge("a good masterKey comes after it", bool(came), came or f"none in {time.time() - spoiled / 1000:.0f} s")
    answer = create()
    report.judge("others get group keys", answer.code == "OK", answer)
    key = messages.DeleteRequest(key=f"masterkey/{spoiled:020}")
    report.allowed("the spoiled masterKey is deleted", world.ask_leader(me, "Config.Delete", key))


run_steps(report, trespass, reads, hoard, spoil, rotation)
