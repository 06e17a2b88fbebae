#!/usr/bin/env python3
"""Decides whether a history (written by tests/fault/history.c, which says how) is linearizable.

    check_history.py FILE      exit status 0: it is; 1: what contradicts is printed; 2: not a history

Linearizable (Herlihy and Wing, 1990): each call can be given one moment between its start and its end, so that all
together are explained by calls that were carried out one after another. A write of unknown outcome may have its moment
any time after its start, or never. A history is linearizable if each object's is, so these are decided apart:

  serials     a counter: allocate takes the next COUNT numbers, show reads the last one. Results give the order, so
              it is enough that no call comes behind another that began after its end. Numbers that nobody got must be
              those of allocations with unknown outcome: a request that was carried out twice shows here.
  min_serial  a register that only rises: set-min below it is refused, show reads it. Results give the order again.
  objects     each a register with compare-and-set. Decided by search over the possible states (Lowe, "Testing for
              linearizability", 2017: just-in-time linearization with the configurations remembered).

And of the revision, which all writes of objects share: it rises with each, and show never sees it fall.
"""
import bisect
import sys
from collections import defaultdict, namedtuple

FOREVER = float("inf")
Call = namedtuple("Call", "start end client name args outcome results line")


def parse(lines):
    calls = []
    for number, line in enumerate(lines, 1):
        head, separator, tail = line.partition(" = ")
        words, answer = head.split(), tail.split()
        if not separator or len(words) < 4 or not answer or answer[0] not in ("ok", "refused", "unknown"):
            raise ValueError("line %d is no call: %r" % (number, line))
        end = FOREVER if answer[0] == "unknown" else int(words[1])
        calls.append(Call(int(words[0]), end, words[2], words[3], words[4:], answer[0], answer[1:], number))
        if calls[-1].end < calls[-1].start:
            raise ValueError("line %d ends before it begins" % number)
    return calls


def find_disorder(groups):
    """groups: lists of calls in the order that their results demand; within a group any order will do.
    A pair of calls that real time has the other way round, or None."""
    latest = None  # of the groups before, the one that began last
    for group in groups:
        for call in group:
            if latest and latest.start > call.end:
                return latest, call
        for call in group:
            if not latest or call.start > latest.start:
                latest = call
    return None


def lines_of(*calls):
    return " and ".join("line %d" % c.line for c in calls)


def disorder(what, groups):
    pair = find_disorder(groups)
    if not pair:
        return []
    return ["%s: by its result, %s comes before %s, which had ended before it began" %
            (what, lines_of(pair[0]), lines_of(pair[1]))]


def check_serials(calls):
    blocks = sorted((int(c.results[0]), int(c.results[1]), c) for c in calls
                    if c.name == "allocate" and c.outcome == "ok")
    shows = sorted((int(c.results[0]), c) for c in calls if c.name == "show")
    missing = [c for c in calls if c.name == "allocate" and c.outcome == "unknown"]
    counts = {int(c.args[0]) for c in calls if c.name == "allocate"}
    if len(counts) > 1:
        raise ValueError("blocks of different sizes: gaps cannot be accounted for")
    count = counts.pop() if counts else 1
    for first, last, c in blocks:
        if last - first + 1 != count:
            return ["serials: line %d asked for %d numbers and got %d to %d" % (c.line, count, first, last)]
    for (_, last, a), (first, _, b) in zip(blocks, blocks[1:]):
        if first <= last:
            return ["serials: %s got the same number, %d" % (lines_of(a, b), first)]
    # Groups by the counter's value behind the call: an allocation before the reads that see it.
    steps = defaultdict(lambda: ([], []))
    for _, last, c in blocks:
        steps[last][0].append(c)
    for last, c in shows:
        steps[last][1].append(c)
    order = sorted(steps.items())
    problems = disorder("serials", [group for _, pair in order for group in pair])
    return problems or check_gaps(order, count, missing)


def check_gaps(order, count, missing):
    """The numbers between what is known must be whole blocks, each of an allocation with unknown outcome that had begun
    before all that comes behind it had ended. Whoever began first fills the first gap: that is never worse."""
    if not order:
        return []
    starts = sorted(c.start for c in missing)
    ends = [min(c.end for group in pair for c in group) for _, pair in order]
    for i in range(len(ends) - 2, -1, -1):
        ends[i] = min(ends[i], ends[i + 1])
    used = 0
    value = order[0][0]
    for (last, (allocations, reads)), end in list(zip(order, ends))[1:]:
        gap = last - (count if allocations else 0) - value
        if gap < 0 or gap % count:
            return ["serials: %s is in the middle of a block" % lines_of((allocations + reads)[0])]
        used += gap // count
        if used and (used > len(starts) or starts[used - 1] > end):
            return ["serials: of the numbers before %s, up to %d, %d blocks were handed to nobody: too many for the "
                    "allocations with unknown outcome" % (lines_of((allocations + reads)[0]), last, used)]
        value = last
    return []


def check_min(calls):
    shows = [(int(c.results[1]), c) for c in calls if c.name == "show"]
    sets = [(int(c.args[0]), c) for c in calls if c.name == "set-min"]
    if not shows:
        return []
    initial = min(shows, key=lambda s: s[1].start)[0]
    for value, c in sets:
        if c.outcome == "ok" and int(c.results[0]) != value:
            return ["min_serial: line %d set %d, and was answered %s" % (c.line, value, c.results[0])]
    written = defaultdict(list)  # who may have written a value
    known = defaultdict(list)    # whose result says that the value was there
    for value, c in sets:
        if c.outcome != "refused":
            written[value].append(c)
        if c.outcome == "ok":
            known[value].append(c)
    for value, c in shows:
        known[value].append(c)
    groups = []
    for value in sorted(known):
        if value < initial:
            return ["min_serial: %s saw %d, but it was %d already" % (lines_of(known[value][0]), value, initial)]
        if value != initial:
            if not written[value]:
                return ["min_serial: %s read %d, which nobody wrote" % (lines_of(known[value][0]), value)]
            writer = min(written[value], key=lambda c: c.start)
            groups.append([writer])
            groups.append([c for c in known[value] if c is not writer])
        else:
            groups.append(known[value])
    return disorder("min_serial", groups) or check_refused(sets, written, known, initial)


def check_refused(sets, written, known, initial):
    """A refusal wants a higher value before its end. So: the earliest moment that each value can have been there, behind
    the starts of all whose results say less."""
    values, moments = [initial], [-1]
    moment = max((c.start for c in known.get(initial, ())), default=-1)
    for value in sorted(v for v in written if v > initial):
        earliest = max(moment, min(c.start for c in written[value]))
        values.append(value)
        moments.append(earliest)
        if value in known:  # else it need not have been there at all
            moment = max([earliest] + [c.start for c in known[value]])
    for i in range(len(moments) - 2, -1, -1):
        moments[i] = min(moments[i], moments[i + 1])  # of this value or a higher one
    for value, c in sets:
        if c.outcome == "refused":
            i = bisect.bisect_right(values, value)
            if i == len(values) or moments[i] > c.end:
                return ["min_serial: line %d was refused %d, but nothing higher can have been there" % (c.line, value)]
    return []


def step(state, call, revisions):
    """The object's state (revision, value) behind the call; None: it cannot have its result in this one."""
    if call.name == "get":
        return state if state == (int(call.results[0]), call.results[1]) else None
    expected, value = int(call.args[1]), call.args[2]
    if call.outcome == "refused":
        return state if state[0] != expected else None
    if state[0] != expected:
        return None
    if call.outcome == "ok":
        return (int(call.results[0]), value)
    return (revisions.get(value, "of line %d" % call.line), value)


def check_object(key, calls):
    """Configurations: a state, and which of the calls under way have had their moment. A call gets it, at the latest,
    when it ends. Calls of unknown outcome need no place in the set: their revision is past once they had theirs."""
    revisions = {c.results[1]: int(c.results[0]) for c in calls if c.name == "get" and c.results[1] != "-"}
    events = sorted([(c.start, 0, i) for i, c in enumerate(calls)] +
                    [(c.end, 1, i) for i, c in enumerate(calls) if c.end != FOREVER])
    first = min((c for c in calls if c.name == "get"), key=lambda c: c.end, default=None)
    configurations = {((0, "-"), frozenset())}
    if first and first.results[1] != "-" and not any(c.name == "put" and c.args[2] == first.results[1] for c in calls):
        configurations = {((int(first.results[0]), first.results[1]), frozenset())}  # it was there before
    pending, forever = set(), defaultdict(set)
    for _, kind, i in events:
        call = calls[i]
        if kind == 0:
            if call.end == FOREVER:
                forever[int(call.args[1])].add(i)
            else:
                pending.add(i)
            continue
        configurations = close(configurations, i, calls, pending, forever, revisions)
        if not configurations:
            return ["object %s: no order of the calls explains %s: %s %s = %s %s" %
                    (key, lines_of(call), call.name, " ".join(call.args), call.outcome, " ".join(call.results))]
        pending.discard(i)
    return []


def close(configurations, i, calls, pending, forever, revisions):
    """What is possible once call i has had its moment, whatever else had it before."""
    done, seen, todo = set(), set(configurations), list(configurations)
    while todo:
        state, taken = todo.pop()
        changes = []
        for j in pending - taken:
            after = step(state, calls[j], revisions)
            if after == state:
                taken = taken | {j}  # reads and refusals change nothing: as soon as they can
            elif after is not None:
                changes.append((after, j))
        if i in taken:
            done.add((state, taken - {i}))
            continue
        following = [(after, taken | {j}) for after, j in changes]
        following += [(step(state, calls[j], revisions), taken) for j in forever.get(state[0], ())]
        for configuration in following:
            if configuration not in seen:
                seen.add(configuration)
                todo.append(configuration)
    return done


def check_revisions(calls):
    puts = defaultdict(list)
    shows = defaultdict(list)
    for c in calls:
        if c.name == "put" and c.outcome == "ok":
            puts[int(c.results[0])].append(c)
        elif c.name == "show":
            shows[int(c.results[2])].append(c)
    for revision, same in puts.items():
        if len(same) > 1:
            return ["revision %d: was given to %s" % (revision, lines_of(*same))]
    groups = []
    for revision in sorted(set(puts) | set(shows)):
        groups += [puts.get(revision, []), shows.get(revision, [])]
    return disorder("revisions", groups)


def check(calls):
    problems = check_serials(calls) + check_min(calls) + check_revisions(calls)
    objects = defaultdict(list)
    for c in calls:
        if c.name in ("get", "put"):
            objects[c.args[0]].append(c)
    for key in sorted(objects):
        problems += check_object(key, objects[key])
    return problems


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with open(sys.argv[1]) as f:
            calls = parse(f)
        problems = check(calls)
    except ValueError as e:
        print("%s: %s" % (sys.argv[1], e), file=sys.stderr)
        return 2
    for problem in problems:
        print(problem)
    unknown = sum(c.outcome == "unknown" for c in calls)
    print("%d calls, %d of unknown outcome: %s" % (len(calls), unknown, "NOT linearizable" if problems else "linearizable"))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
