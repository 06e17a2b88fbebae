#!/usr/bin/env bash
# That the checker of histories accepts what is linearizable, and nothing else.
. "$(dirname "$0")/../integration/lib.sh"
cd "$source/tests/fault"
PYTHONDONTWRITEBYTECODE=1 python3 -m unittest check_history_test
