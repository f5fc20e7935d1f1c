"""Counts TAP cases in meson's testlog.json: prints "passed failed skipped".

usage: tally.py testlog.json NAME
A program that crashed or timed out counts as one failure besides the cases it reported.
"""
import json
import re
import sys

CASE = re.compile(r"^\s*(not )?ok\b[^#\n]*(#\s*skip\b)?", re.I)


def main() -> None:
    passed = failed = skipped = 0
    with open(sys.argv[1], encoding="utf-8", errors="replace") as log:
        for line in log:
            test = json.loads(line)
            cases = [CASE.match(text) for text in test.get("stdout", "").splitlines()]
            cases = [m for m in cases if m]
            # cmocka 1.1.5 writes a skipped case as "not ok N # SKIP name"
            bad = sum(1 for m in cases if m.group(1) and not m.group(2))
            skip = sum(1 for m in cases if m.group(2))
            failed += bad
            skipped += skip
            passed += len(cases) - bad - skip
            result = test["result"]
            if not cases:
                if result == "OK":
                    passed += 1
                elif result == "SKIP":
                    skipped += 1
                else:
                    failed += 1
            elif result not in ("OK", "SKIP") and not bad and test.get("returncode", 1) != 0:
                failed += 1
                bad = 1
            if bad:
                print(f"{sys.argv[2]}: {test['name']}: {result}", file=sys.stderr)
    print(passed, failed, skipped)


main()
