#!/usr/bin/env python3
"""Finds words that a second-language reader at 3 a.m. has to read twice, and names better ones.

    .ci/words.py [FILE...]

Looks at comments, strings, names and pages: a word counts inside `snake_case` and `CamelCase` too, and a
phrase across the end of a line. Two places may hold these words: this file, and the rows of CHANGELOG.md's
tables, which give the old name of what was renamed.
"""

import re
import subprocess
import sys
from pathlib import Path

KINDS = ["*.rs", "*.md", "*.py", "*.sh", "*.yml", "*.toml", ".ci/run"]
# What not to write, as a pattern (a space is any white space), and what to write instead.
BETTER = {
    "told": "reported, logged, returned, documented",
    "tells": "reports, says, shows",
    # Not in quotes or after `user: `, where it is an account.
    r"(?<![\"`])(?<!user:\x20)nobody": "no caller, no reader",
    "whoever": "any caller, the operator",
    "somebody": "another process, the operator",
    "good[- ]?bye": "Terminate message",
    "could not be had": "failed to obtain",
    "(?:came|comes) of it": "outcome, result",
    "in vain": "failed",
    # Except `run_upkeep`, a method of metrics-exporter-prometheus.
    r"(?<!run\s)upkeep": "maintenance",
    "let go of": "draining, dropped",
    "serves on": "stays in use",
    "mend": "fix",
    "mended": "fixed",
    # Texts that were here once.
    "the first of two is not": "neither source is configured; first: ..",
    "is no PEM and no DER": "is neither PEM nor DER",
    "holds what is not the key of the certificate": "does not match the certificate",
    r"\{got:\?\}: it takes": "invalid {field} {got:?}: expected {takes}",
    r"was asked for \(does its CA expire\?\)": "was requested (is the issuing CA about to expire?)",
    "answered the look at the wrapping token": "wrapping token lookup failed with status ..",
    "the old one serves as long as it lives": "continuing with the current token until it expires",
    "published without the gate's word": "gate inconclusive; certificate published anyway",
    "would return other than the last one did": "has something newer than the last fetch returned",
    "hands out nothing more, for good": "stops handing out connections",
    "unsharp": "TOLERANCE",
    "a mark of order and text around do not count": "ignores .. and surrounding text",
    # Names that are a joke; `_` with a comment says as much.
    r"(?<!\w)_(?:gone|unheard)(?!\w)": "_",
}

COMMENT_SIGN = re.compile(r"^\s*(?://[/!]?|#+!?|\*|>)(?=\s|$)")
FIND = [(re.compile(r"(?<![^\W_])(?:" + words.replace(" ", r"\s+") + r")(?![^\W_])", re.I), better)
        for words, better in BETTER.items()]


def in_words(line):
    """The line without its comment sign, and with names taken apart: `serves_on` and `ServesOn` are `serves on`."""
    line = COMMENT_SIGN.sub("", line).removesuffix("\\")
    # A leading `_` is part of a name and stays.
    line = re.sub(r"(?<=[^\W_])_+(?=[^\W_])", " ", line)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", line)


def hits(name, text):
    """(line number, what is written, what is better) of each word in this text."""
    lines = text.splitlines()
    if name == "CHANGELOG.md":
        lines = ["" if line.startswith("|") else line for line in lines]
    plain = "\n".join(map(in_words, lines))
    found = {(plain.count("\n", 0, hit.start()) + 1, " ".join(hit[0].split()), better)
             for pattern, better in FIND for hit in pattern.finditer(plain)}
    return sorted(found)


def main():
    root = Path(__file__).resolve().parent.parent
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *(sys.argv[1:] or KINDS)]
    names = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout.split()
    count = 0
    for name in sorted(set(names) - {".ci/words.py"}):
        if (root / name).exists():
            for line, written, better in hits(name, (root / name).read_text()):
                print(f'{name}:{line}: "{written}": better: {better}')
                count += 1
    if count:
        print(f"{count} words or phrases to replace", file=sys.stderr)
    return count > 0


if __name__ == "__main__":
    sys.exit(main())
