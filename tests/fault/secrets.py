#!/usr/bin/env python3
"""Looks through the memory of a running process for secrets: secrets.py PID, on standard input lines

    nowhere LABEL HEX    no copy may be left anywhere
    locked LABEL HEX     there is one, and each lies in memory that is never swapped and left out of core dumps or whose
                         process makes none

Says what differs and where it lies; exit status 1 then, 2 where the memory cannot be read."""
import re
import sys


def mappings(pid):
    """(start, end, name, flags) of all that can be read."""
    found = []
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as smaps:
        for line in smaps:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (r?)\S+ \S+ \S+ \S+\s*(.*)", line)
            if head:
                current = [int(head[1], 16), int(head[2], 16), head[4].strip() or "anonymous", []]
                if head[3] and current[2] not in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
                    found.append(current)
            elif line.startswith("VmFlags:"):
                current[3] = line.split()[1:]
    return found


def places(pid, patterns):
    """For each pattern the mappings in which it lies."""
    hits = {pattern: [] for pattern in patterns}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end, name, flags in mappings(pid):
            try:
                memory.seek(start)
                data = memory.read(end - start)
                while len(data) < end - start:
                    more = memory.read(end - start - len(data))
                    if not more:
                        break
                    data += more
            except OSError:
                continue
            for pattern in patterns:
                at = data.find(pattern)
                while at >= 0:
                    hits[pattern].append((start + at, name, flags))
                    at = data.find(pattern, at + 1)
    return hits


def main():
    pid = sys.argv[1]
    wanted = []
    for line in sys.stdin:
        rule, label, text = line.split()
        wanted.append((rule, label, bytes.fromhex(text)))
    try:
        hits = places(pid, {pattern for _, _, pattern in wanted})
    except OSError as error:
        print(f"the memory of {pid}: {error}")
        return 2
    wrong = []
    for rule, label, pattern in wanted:
        there = hits[pattern]
        if rule == "locked" and not there:
            wrong.append(f"{label}: not found, so the search proves nothing")
        for address, name, flags in there:
            if rule == "nowhere" or "lo" not in flags:
                wrong.append(f"{label}: {len(pattern)} bytes at {address:x} in {name}"
                             + ("" if "lo" in flags else ", not locked"))
    print("\n".join(wrong))
    return 1 if wrong else 0


sys.exit(main())
