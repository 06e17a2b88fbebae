#!/usr/bin/env python3
"""A replica's key without the replica: serial3's, which is stopped but a member, or was removed (fault/insiders.sh).

    insider_replica.py member|removed

docs/security-model.md trusts every replica's host: what a member may pass on for kds-ca and kds-keydist is no breach.
"""
import pathlib, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from insider import *

world, report = World(), Report("replica")
me, others = world.service("serial3"), world.replicas[:2]
AS_ADMIN, AS_CA = behalf_of("admin", ADMIN, "admin"), behalf_of("ca1", CA, "ca1")
AS_KEYDIST = behalf_of("keydist1", KEYDIST, "keydist1")
FAR = 1000  # terms
ONE = messages.AllocateRequest(count=1)


def put(**value):
    return messages.PutRequest(object=messages.Object(**value))


# Should they be let in, they change nothing that matters.
WRITES = [("Config.Put", put(setting=messages.Setting(name="site.replica", value="stolen"))),
          ("Config.Put", put(node=messages.Node(name="spare.example.com"))),
          ("Config.Delete", messages.DeleteRequest(key="node/nobody.example.com")),
          ("Serial.SetMin", messages.SetMinRequest(min_serial=1)),
          ("Replicas.Add", messages.AddReplicaRequest(name="serial1", address="127.0.0.9:7401", standby=True)),
          ("Replicas.SetVoter", messages.SetVoterRequest(name="nobody", voter=True)),
          ("Replicas.Transfer", messages.TransferRequest(name="nobody")),
          ("Replicas.Remove", messages.RemoveReplicaRequest(name="nobody"))]
READS = [("Config.History", messages.HistoryRequest()), ("Backup.Position", messages.BackupPositionRequest()),
         ("Backup.Read", messages.BackupReadRequest())]


def refused_at_both(behalf, calls):
    """Neither of the others does it, also not the one that leads. UNAVAILABLE is what one says that follows, and what
    the leader says to a replica that speaks for an administrator."""
    for method, message in calls:
        answers = [world.ask(me, address, method, message, behalf=behalf) for address in others]
        what = f"{method} of a {message.object.WhichOneof('value')}" if method == "Config.Put" else method
        good = all(a.code in (REFUSED, "PERMISSION_DENIED", "UNAVAILABLE") for a in answers)
        came = " | ".join(f"{a.code} {a.message}" for a in answers)
        report.judge(f"{what} on behalf of {behalf.common_name}", good, came)


def leader_there():
    kept = put(setting=messages.Setting(name="site.replica", value="kept"))
    answer = world.ask_leader(world.admin, "Config.Put", kept)
    report.allowed("the administrator sets site.replica, so there is a leader", answer)


def term():
    return max(m.status.term for m in world.know("Replicas.View").members)


def lead_astray():
    """Asks the others for their vote in a term far ahead, and sends entries of it: the term before and after, and what
    became of the connections."""
    replica = world.know("Config.Get", messages.GetRequest(key="replica/serial3")).replica
    cluster = world.know("Config.Get", messages.GetRequest(key="cluster")).cluster
    before = term()
    far = before + FAR
    hello = messages.PeerHello(version=1, oldest_version=1, level=1000, cluster_id=cluster.cluster_id,
                               incarnation=replica.incarnation, **{"from": replica.id})
    vote = messages.RequestVote(term=far, candidate_id=replica.id, last_log_index=1 << 40, last_log_term=far,
                                disrupt_leader=True)
    entries = messages.AppendEntries(term=far, leader_commit=1 << 40)
    came = []
    for address in others:
        try:
            with Link(world, me, address.replace(":7400", ":7401"), speaks=PUSH, patience=2) as link:
                for message in ({"hello": hello}, {"request_vote": vote}, {"append_entries": entries}):
                    link.send_frame(messages.PeerMessage(**message).SerializeToString())
                came.append(str(messages.PeerMessage.FromString(link.read_frame())))
        except Refused as refused:
            came.append(str(refused))
    wait_for(lambda: term() >= far, 3)
    return before, term(), came


def member():
    passed_on = lambda: world.ask_leader(me, "Serial.Allocate", ONE, behalf=AS_CA)
    report.allowed("Serial.Allocate on behalf of ca1, as replicas pass it on", passed_on())
    leader_there()
    refused_at_both(AS_ADMIN, WRITES)
    refused_at_both(AS_CA, [WRITES[0], ("Serial.SetMin", messages.SetMinRequest(min_serial=1))] + READS)
    refused_at_both(behalf_of("node2.example.com", NODE), [("Serial.Show", None), ("Config.List", None)])
    refused_at_both(behalf_of("root", 1 << 6), [("Serial.Show", None)])
    report.allowed("and Serial.Allocate once more", passed_on())
    for method, message in WRITES + READS + [("Serial.Allocate", ONE)]:
        report.refused(f"{method} in its own name", world.ask_leader(me, method, message))
    for at in (world.ca, world.keydist):
        call_everything(world, report, me, "serial", at)
        call_everything(world, report, me, "serial", at, AS_ADMIN)
        call_everything(world, report, me, "serial", at, behalf_of("node2.example.com", NODE | KDS_CLIENT))
    sealed = sealed_keys(world.ask_leader(me, "Config.List", messages.ListRequest()).value.objects)
    report.judge("sealed keys in its own name", not sealed, sealed)
    before, after, came = lead_astray()
    report.control("a member's vote in a far term is heard", after >= before + FAR, f"term {before} to {after}: {came}")


def removed():
    """Its certificate is valid for weeks."""
    leader_there()
    refused_at_both(AS_ADMIN, WRITES + READS)
    refused_at_both(AS_CA, [("Serial.Allocate", ONE), ("Serial.Show", None), ("Config.List", None)])
    refused_at_both(AS_KEYDIST, [("Config.List", messages.ListRequest(prefix="masterkey/"))])
    before, after, came = lead_astray()
    report.judge("a vote and entries of a far term", after < before + FAR, f"term {before} to {after}: {came}")
    value = world.know("Config.Get", messages.GetRequest(key="setting/site.replica")).setting.value
    report.judge("site.replica is what the administrator set", value == "kept", value)


run_steps(report, member, removed)
