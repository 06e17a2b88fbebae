#!/usr/bin/env python3
"""Do the replicas that ran in these directories hold the same? The state's tables row for row, and the log as far as all
have it and have applied it.

    same_state.py DATA_DIR...
"""
import os
import shutil
import sqlite3
import struct
import sys
import tempfile

REQUEST_HEADER = 20  # services/serial/state_requests.c: time, code, lengths of key and answer
OWN = {"meta", "log", "record"}  # of one replica alone: its vote; its log, which may begin and end elsewhere; its incarnation
LEFT_OVER = ("staged_", "retired_")  # of snapshots that came: services/serial/snapshot_tables.c


def requests(db):
    """By number: rows are cut as each replica's transactions were, and the first may hold what is forgotten already."""
    (oldest,) = db.execute("SELECT oldest_request FROM numbers").fetchone()
    found = []
    for last, entries in db.execute("SELECT last, entries FROM requests ORDER BY last"):
        row, at = [], 0
        while at < len(entries):
            size = REQUEST_HEADER + sum(struct.unpack(">II", entries[at + 12:at + 20]))
            row.append(entries[at:at + size])
            at += size
        found += [(last + 1 - len(row) + i, e) for i, e in enumerate(row) if last + 1 - len(row) + i >= oldest]
    return found


def load(directory):
    # A copy: reading must not change what a test looks at.
    with tempfile.TemporaryDirectory() as copy:
        for name in ("replica.db", "replica.db-wal"):
            if os.path.exists(os.path.join(directory, name)):
                shutil.copy(os.path.join(directory, name), copy)
        db = sqlite3.connect(os.path.join(copy, "replica.db"))
        names = [n for (n,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        tables = {n: sorted(db.execute("SELECT * FROM " + n), key=repr) for n in names
                  if n not in OWN and not n.startswith(LEFT_OVER)}
        tables["requests"] = requests(db)
        (applied,) = db.execute("SELECT applied FROM meta").fetchone()
        log = {row[0]: row for row in db.execute("SELECT idx, term, type, data FROM log WHERE idx <= ?", (applied,))}
        db.close()
    return tables, log, applied


def main():
    replicas = [load(d) for d in sys.argv[1:]]
    first_tables, first_log, first_applied = replicas[0]
    same = True
    for directory, (tables, log, applied) in zip(sys.argv[2:], replicas[1:]):
        for name in sorted(set(tables) | set(first_tables)):
            if tables.get(name) != first_tables.get(name):
                same = False
                print("%s: table %s differs from %s's" % (directory, name, sys.argv[1]))
                ours, theirs = set(map(repr, tables.get(name, []))), set(map(repr, first_tables.get(name, [])))
                for row in sorted(ours ^ theirs)[:4]:
                    print("  only in %s: %.300s" % (directory if row in ours else sys.argv[1], row))
        for index in sorted(set(log) & set(first_log)):
            if log[index] != first_log[index]:
                same = False
                print("%s: entry %d differs from %s's" % (directory, index, sys.argv[1]))
                break
    if same:
        print("%d replicas hold the same, at entry %s" % (len(replicas), " and ".join(
            str(a) for a in sorted({applied for _, _, applied in replicas}))))
    return 0 if same else 1


sys.exit(main())
