"""Histories written by hand, that are linearizable and that are not, for check_history.py."""
import random
import unittest

import check_history


def problems(text):
    lines = [line.strip() for line in text.strip().splitlines()]
    return check_history.check(check_history.parse(lines))


class Histories(unittest.TestCase):
    def holds(self, text):
        self.assertEqual([], problems(text))

    def fails(self, words, text):
        found = problems(text)
        self.assertTrue(found, "not noticed")
        self.assertIn(words, found[0])


class Serials(Histories):
    def test_one_after_another(self):
        self.holds("""
            0 1 0 show = ok 0 0 1
            2 3 0 allocate 3 = ok 1 3
            4 5 0 show = ok 3 0 1
            6 7 1 allocate 3 = ok 4 6""")

    def test_concurrent_calls_may_come_in_any_order(self):
        self.holds("""
            0 1 0 show = ok 0 0 1
            2 9 0 allocate 3 = ok 4 6
            2 9 1 allocate 3 = ok 1 3
            2 9 2 show = ok 0 0 1
            2 9 3 show = ok 6 0 1""")

    def test_a_number_twice(self):
        self.fails("the same number", """
            0 9 0 allocate 3 = ok 1 3
            0 9 1 allocate 3 = ok 3 5""")

    def test_a_later_call_gets_lower_numbers(self):
        self.fails("comes before", """
            0 1 0 show = ok 0 0 1
            2 3 0 allocate 3 = ok 4 6
            4 5 1 allocate 3 = ok 1 3""")

    def test_a_read_misses_what_ended_before_it(self):
        self.fails("comes before", """
            0 1 0 show = ok 0 0 1
            2 3 0 allocate 3 = ok 1 3
            4 5 1 show = ok 0 0 1""")

    def test_a_read_sees_what_has_not_begun(self):
        self.fails("comes before", """
            0 1 0 show = ok 0 0 1
            2 3 1 show = ok 3 0 1
            4 5 0 allocate 3 = ok 1 3""")

    def test_two_reads_go_back(self):
        self.fails("comes before", """
            0 1 0 show = ok 0 0 1
            2 9 0 allocate 3 = ok 1 3
            3 4 1 show = ok 3 0 1
            5 6 2 show = ok 0 0 1""")

    def test_an_unknown_outcome_explains_a_gap(self):
        self.holds("""
            0 1 0 show = ok 0 0 1
            2 3 0 allocate 3 = unknown
            4 5 1 allocate 3 = ok 4 6""")

    def test_an_unknown_outcome_may_come_late_or_never(self):
        self.holds("""
            0 1 0 show = ok 0 0 1
            2 3 0 allocate 3 = unknown
            2 3 3 allocate 3 = unknown
            4 5 1 allocate 3 = ok 1 3
            6 7 1 show = ok 3 0 1
            8 9 1 show = ok 6 0 1""")

    def test_a_gap_that_nobody_explains(self):
        self.fails("handed to nobody", """
            0 1 0 show = ok 0 0 1
            2 3 0 allocate 3 = ok 1 3
            4 5 1 allocate 3 = ok 7 9""")

    def test_one_unknown_outcome_explains_no_two_gaps(self):
        self.fails("handed to nobody", """
            0 1 0 show = ok 0 0 1
            2 3 0 allocate 3 = unknown
            4 5 1 allocate 3 = ok 4 6
            6 7 1 allocate 3 = ok 10 12""")

    def test_an_unknown_outcome_explains_no_gap_before_it(self):
        self.fails("handed to nobody", """
            0 1 0 show = ok 0 0 1
            2 3 1 allocate 3 = ok 4 6
            4 5 0 allocate 3 = unknown""")

    def test_part_of_a_block(self):
        self.fails("middle of a block", """
            0 1 0 show = ok 0 0 1
            2 9 0 allocate 3 = unknown
            4 5 1 show = ok 2 0 1""")
        self.fails("asked for 3", "0 1 0 allocate 3 = ok 1 2")


class MinSerial(Histories):
    def test_one_after_another(self):
        self.holds("""
            0 1 0 show = ok 9 0 1
            2 3 0 set-min 4 = ok 4
            4 5 0 show = ok 9 4 2
            6 7 0 set-min 3 = refused
            8 9 0 set-min 4 = ok 4""")

    def test_concurrent(self):
        self.holds("""
            0 1 0 show = ok 9 0 1
            2 9 0 set-min 4 = ok 4
            2 9 1 set-min 5 = ok 5
            2 9 2 set-min 3 = refused
            2 9 3 show = ok 9 0 1
            2 9 4 show = ok 9 5 1""")

    def test_it_went_down(self):
        self.fails("comes before", """
            0 1 0 show = ok 9 0 1
            2 3 0 set-min 4 = ok 4
            4 5 0 show = ok 9 0 1""")
        self.fails("comes before", """
            0 1 0 show = ok 9 0 1
            2 3 0 set-min 4 = ok 4
            4 5 0 set-min 3 = ok 3""")

    def test_two_reads_go_back(self):
        self.fails("comes before", """
            0 1 0 show = ok 9 0 1
            2 9 0 set-min 4 = ok 4
            3 4 1 show = ok 9 4 1
            5 6 2 show = ok 9 0 1""")

    def test_a_value_from_nowhere(self):
        self.fails("nobody wrote", """
            0 1 0 show = ok 9 0 1
            2 3 0 show = ok 9 4 1""")
        self.fails("nobody wrote", """
            0 1 0 show = ok 9 5 1
            2 3 0 set-min 4 = refused
            6 7 0 set-min 6 = refused
            8 9 0 show = ok 9 6 1""")

    def test_unknown_outcome(self):
        self.holds("""
            0 1 0 show = ok 9 0 1
            2 3 0 set-min 4 = unknown
            4 5 0 show = ok 9 0 1
            6 7 0 show = ok 9 4 1""")
        self.holds("""
            0 1 0 show = ok 9 0 1
            2 3 0 set-min 4 = unknown
            4 5 0 set-min 3 = refused""")
        self.fails("comes before", """
            0 1 0 show = ok 9 0 1
            2 3 0 show = ok 9 4 1
            4 5 0 set-min 4 = unknown""")

    def test_a_refusal_for_no_reason(self):
        self.fails("nothing higher", """
            0 1 0 show = ok 9 0 1
            2 3 0 set-min 4 = refused
            4 5 0 set-min 5 = ok 5""")
        self.fails("nothing higher", """
            0 1 0 show = ok 9 0 1
            2 99 0 set-min 6 = ok 6
            3 4 1 set-min 5 = refused
            10 11 2 set-min 3 = ok 3""")

    def test_another_answer_than_asked_for(self):
        self.fails("was answered 5", """
            0 1 0 show = ok 9 0 1
            2 3 0 set-min 4 = ok 5""")


class Objects(Histories):
    def test_one_after_another(self):
        self.holds("""
            0 1 0 get a = ok 0 -
            2 3 0 put a 0 x = ok 5
            4 5 0 get a = ok 5 x
            6 7 1 put a 0 y = refused
            8 9 1 put a 5 y = ok 7
            10 11 2 put b 0 z = ok 8""")

    def test_what_was_there_before(self):
        self.holds("""
            0 1 0 get a = ok 4 old
            2 3 0 put a 4 x = ok 5""")

    def test_a_read_before_a_write_that_ended_first(self):
        self.holds("""
            0 1 0 get a = ok 0 -
            2 9 0 get a = ok 0 -
            3 4 1 put a 0 x = ok 5
            5 6 1 put a 5 y = ok 6
            2 9 2 get a = ok 5 x
            2 9 2 get a = ok 6 y""")

    def test_two_of_one_revision(self):
        self.fails("no order", """
            0 1 0 get a = ok 0 -
            2 9 0 put a 0 x = ok 5
            2 9 1 put a 0 y = ok 6""")

    def test_a_stale_read(self):
        self.fails("no order", """
            0 1 0 get a = ok 0 -
            2 3 0 put a 0 x = ok 5
            4 5 1 get a = ok 0 -""")

    def test_two_reads_go_back(self):
        self.fails("no order", """
            0 1 0 get a = ok 0 -
            2 9 0 put a 0 x = ok 5
            3 4 1 get a = ok 5 x
            5 6 2 get a = ok 0 -""")

    def test_a_lost_write(self):
        self.fails("no order", """
            0 1 0 get a = ok 0 -
            2 3 0 put a 0 x = ok 5
            4 5 1 put a 0 y = ok 6""")

    def test_a_refusal_for_no_reason(self):
        self.fails("no order", """
            0 1 0 get a = ok 0 -
            2 3 0 put a 0 x = refused
            4 5 0 put a 0 y = ok 5""")

    def test_a_refused_write_was_carried_out(self):
        self.fails("no order", """
            0 1 0 get a = ok 0 -
            2 3 0 put a 7 x = refused
            4 5 0 get a = ok 5 x""")

    def test_unknown_outcome(self):
        self.holds("""
            0 1 0 get a = ok 0 -
            2 3 0 put a 0 x = unknown
            2 3 1 put a 0 y = unknown
            4 5 0 get a = ok 0 -
            6 7 1 get a = ok 5 x
            8 9 0 put a 5 z = ok 6""")
        self.holds("""
            0 1 0 get a = ok 0 -
            2 3 0 put a 0 x = unknown
            4 5 1 put a 0 z = refused""")
        self.fails("no order", """
            0 1 0 get a = ok 0 -
            2 3 1 get a = ok 5 x
            4 5 0 put a 0 x = unknown""")
        self.fails("no order", """
            0 1 0 get a = ok 0 -
            2 3 0 put a 0 x = unknown
            4 5 0 put a 0 y = ok 6
            6 7 1 get a = ok 5 x""")


class Revisions(Histories):
    def test_one_revision_twice(self):
        self.fails("was given to", """
            0 1 0 put a 0 x = ok 5
            2 3 0 put b 0 y = ok 5""")

    def test_they_go_back(self):
        self.fails("revisions", """
            0 1 0 put a 0 x = ok 5
            2 3 0 put b 0 y = ok 4""")
        self.fails("revisions", """
            0 1 0 put a 0 x = ok 5
            2 3 0 show = ok 0 0 4""")


class Random(unittest.TestCase):
    """Histories of a correct object, which must hold; and each with one answer changed, most of which must not."""

    def make(self, dice):
        last, minimum, revision, objects, seen = 0, 0, 0, {}, {}
        lines = ["0 1 0 show = ok 0 0 0"]
        for moment in range(10, 4000, 10):
            start, end = moment - dice.randrange(1, 60), moment + dice.randrange(1, 60)
            operation, lost = dice.randrange(5), dice.random() < 0.1
            happens = not lost or dice.random() < 0.5
            key = str(dice.randrange(3))
            now = objects.get(key, (0, "-"))
            if operation == 0:
                line = "allocate 3 = ok %d %d" % (last + 1, last + 3)
                last += 3 * happens
            elif operation == 1:
                value = dice.randrange(last + 2)
                line = "set-min %d = %s" % (value, "refused" if value < minimum else "ok %d" % value)
                if happens and value > minimum:
                    minimum, revision = value, revision + 1
            elif operation == 2:
                line, lost = "show = ok %d %d %d" % (last, minimum, revision), False
            elif operation == 3:
                line, lost = "get %s = ok %d %s" % (key, now[0], now[1]), False
                seen[key] = now[0]
            else:
                expected = seen.get(key, 0)  # nobody knows of another
                line = "put %s %d v%d = %s" % (key, expected, moment,
                                               "ok %d" % (revision + 1) if expected == now[0] else "refused")
                if happens and expected == now[0]:
                    revision += 1
                    objects[key] = (revision, "v%d" % moment)
                    if not lost:
                        seen[key] = revision
            if lost:
                line = line.partition(" = ")[0] + " = unknown"
            lines.append("%d %d 0 %s" % (max(start, 2), end, line))
        return lines

    def test_random(self):
        for seed in range(60):
            lines = self.make(random.Random(seed))
            self.assertEqual([], check_history.check(check_history.parse(lines)), "seed %d" % seed)

    def test_changed(self):
        noticed, tried = 0, 0
        for seed in range(60):
            dice = random.Random(seed)
            lines = self.make(dice)
            candidates = [i for i, line in enumerate(lines) if i and " allocate 3 = ok" in line or "get" in line]
            i = dice.choice(candidates)
            words = lines[i].split()
            if "get" in words:
                words[-2] = str(int(words[-2]) + 1)
            else:
                words[-2:] = [str(int(words[-2]) - 3), str(int(words[-1]) - 3)]
            lines[i] = " ".join(words)
            tried += 1
            noticed += bool(check_history.check(check_history.parse(lines)))
        self.assertGreaterEqual(noticed, tried * 0.9)


if __name__ == "__main__":
    unittest.main()
