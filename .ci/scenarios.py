#!/usr/bin/env python3
"""Keeps the last column of the tables in tests/README.md: the tests that show each scenario.

    .ci/scenarios.py            fails where the page is not what the tests say
    .ci/scenarios.py --write    writes the page

A test names its scenarios in a doc line, `/// Scenario: T6, C4`. What happens in a scenario is written by
hand in the page; each scenario has a test or begins with *no test*, and each test's scenario has a row.
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "tests" / "README.md"
# Tests in these places run on real servers; the others in process, or on a scripted Vault.
ON_SERVERS = re.compile(r"tests/tests/|crates/perennial-vault/tests/(?!vault/)|crates/perennial-testbed/")
TEST = re.compile(r"^ */// Scenario: (.*)\n(?:\s*(?:#\[.*\]|//.*)\n)*?\s*(?:async )?fn (\w+)", re.M)
ROW = re.compile(r"^\| ([A-Z]\d+) \| (.*?) \|(?: .*? \|)?$", re.M)


def tests():
    """The names of the tests of each scenario: on real servers, and others."""
    shown = defaultdict(lambda: ([], []))
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.rs"],
                            cwd=ROOT, capture_output=True, text=True, check=True)
    for name in sorted(listed.stdout.split()):
        text = (ROOT / name).read_text() if (ROOT / name).exists() else ""
        found = TEST.findall(text)
        if len(found) != len(re.findall(r"Scenario: ", text)):
            sys.exit(f"{name}: a line `/// Scenario: ..` is not directly above a test")
        for ids, test in found:
            for scenario in re.split(r", *", ids.strip()):
                shown[scenario][not ON_SERVERS.match(name)].append(test)
    return shown


def main():
    shown, page = tests(), PAGE.read_text()
    found = [(row[1], row[2]) for row in ROW.finditer(page)]
    rows = [scenario for scenario, _ in found]
    wrong = [f"{scenario} has no row in tests/README.md" for scenario in sorted(set(shown) - set(rows))]
    wrong += [f"{scenario} has no test" for scenario, text in found
              if scenario not in shown and not text.startswith("*no test*")]
    wrong += [f"{scenario} has two rows" for scenario in sorted({row for row in rows if rows.count(row) > 1})]

    def row(found):
        names = [", ".join(f"`{name}`" for name in names) for names in shown[found[1]]]
        on_servers, others = names
        cell = "; ".join(part for part in (on_servers and f"*server*: {on_servers}", others) if part)
        return f"| {found[1]} | {found[2]} | {cell} |"

    current = ROW.sub(row, page)
    if "--write" in sys.argv[1:]:
        PAGE.write_text(current)
    elif current != page:
        wrong.append("tests/README.md is out of date: run .ci/scenarios.py --write")
    for line in wrong:
        print(line, file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
