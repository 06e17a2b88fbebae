#!/usr/bin/env python3
"""Damages the database of a replica that does not run, as disks do.

    damage.py DATA_DIR WHAT

    tear-wal     the write-ahead log ends in the middle of a frame of the last commits (the very last may hold nothing that
                 was promised: what was applied follows from the log)
    lose-wal     it is empty
    zero-wal     the second half of that frame is zeros
    flip-entry   a bit of an entry's data in the log
    tear-page    the second half of the database's last page is zeros
    flip-pointer a bit of an interior page's pointer to a child

Prints what it did. The database has no write-ahead log for the last three (the replica stopped in good order).
"""
import os
import sqlite3
import struct
import sys

PAGE = 4096
FRAME = 24 + PAGE


def query(path, sql):
    # immutable: looking at it changes nothing.
    db = sqlite3.connect("file:%s?immutable=1" % path, uri=True)
    rows = db.execute(sql).fetchall()
    db.close()
    return rows


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 0x04]))
    print("byte %d of %s: %02x is %02x" % (at, os.path.basename(path), byte, byte ^ 0x04))


def find_only(path, data):
    with open(path, "rb") as f:
        content = f.read()
    at = content.rfind(data)
    if at < 0:
        sys.exit("damage.py: the bytes are not in one piece in %s" % path)
    return at


def zero(path, at, n):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(b"\0" * n)
    print("%d bytes of %s from %d on are zeros" % (n, os.path.basename(path), at))


def interior_pointer(path):
    """In the last interior page of a table."""
    with open(path, "rb") as f:
        content = f.read()
    for page in range(len(content) // PAGE - 1, 0, -1):
        head = content[page * PAGE:page * PAGE + 14]
        cells, cell = struct.unpack(">H", head[3:5])[0], struct.unpack(">H", head[12:14])[0]
        if head[0] == 5 and 0 < cells < 500 and 12 < cell < PAGE - 4:
            return page * PAGE + cell + 3
    sys.exit("damage.py: no interior page in %s" % path)


def late_frame(wal):
    """Where a frame of the newest commits ends. Behind the newest frame there may be older ones, with another salt."""
    with open(wal, "rb") as f:
        content = f.read()
    salt = content[16:24]
    end = 32
    while content[end + 8:end + 16] == salt:
        end += FRAME
    if end == 32:
        sys.exit("damage.py: %s holds nothing" % wal)
    return max(end - 20 * FRAME, 32 + FRAME)


def main():
    directory, what = sys.argv[1:]
    path = os.path.join(directory, "replica.db")
    wal = path + "-wal"
    if what in ("tear-wal", "zero-wal"):
        end = late_frame(wal)
        if what == "tear-wal":
            os.truncate(wal, end - PAGE // 2)
            print("replica.db-wal ends at %d" % (end - PAGE // 2))
        else:
            zero(wal, end - PAGE // 2, PAGE // 2)
    elif what == "lose-wal":
        os.truncate(wal, 0)
        print("replica.db-wal is empty")
    elif what == "tear-page":
        zero(path, os.path.getsize(path) - PAGE // 2, PAGE // 2)
    elif what == "flip-pointer":
        flip(path, interior_pointer(path))
    elif what == "flip-entry":
        (data,), = query(path, "SELECT data FROM log WHERE type = 1 ORDER BY idx DESC LIMIT 1 OFFSET 20")
        flip(path, find_only(path, data) + len(data) // 2)
    else:
        sys.exit(__doc__)


main()
