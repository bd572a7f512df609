"""Checks what mdBook does not: links and anchors of every page, and what the pages promise.

- Each page is in SUMMARY.md, each link and anchor leads somewhere, each picture is there.
- Each command in a ```console block is one that `.ci/run` runs. `console,by-hand` marks those that
  take too long for it; a program or bench that they name must exist. What needs a cluster or a Vault
  of the reader's is `sh`.
- Each page with Rust code is compiled, as tests/book.rs names it; no block is `ignore`.
- Each alert has a runbook.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "docs" / "src"
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.S | re.M)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
wrong = []


def anchor(heading):
    """As GitHub and mdBook make it from a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")


def anchors(page):
    text = FENCE.sub("", page.read_text())
    return {anchor(line.lstrip("#")) for line in text.splitlines() if line.startswith("#")}


def check_links(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            wrong.append(f"{page.name}: {link} is not there")
        elif fragment and fragment not in anchors(target):
            wrong.append(f"{page.name}: {link} has no such heading")


def check_commands(page, ci):
    for kind, block in FENCE.findall(page.read_text()):
        if not kind.startswith("console"):
            continue
        for line in block.splitlines():
            command = line.split("#")[0].strip()
            if not command:
                continue
            if kind == "console,by-hand":
                check_program(page, command)
            elif not re.search(rf"(?<!\S){re.escape(command)}(?![\w-])", ci):
                wrong.append(f"{page.name}: `{command}` is not run by .ci/run")


def check_program(page, command):
    package = re.search(r"-p (\S+)", command)
    folder = ROOT / "crates" / package[1] if package else ROOT
    binary = re.search(r"--bin (\S+)", command)
    is_bench = command.startswith("cargo bench")
    there = [folder, binary and folder / "src" / "bin" / f"{binary[1]}.rs", is_bench and folder / "benches"]
    if not all(path.exists() for path in there if path):
        wrong.append(f"{page.name}: `{command}` names what is not there")


def main():
    summary = (SRC / "SUMMARY.md").read_text()
    pages = sorted(SRC.rglob("*.md"))
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    compiled = (ROOT / "tests" / "book.rs").read_text()
    # What CI runs, one line a command.
    ci = (ROOT / ".ci" / "run").read_text()
    for page in sorted({*pages, *(ROOT / name for name in listed.stdout.split())}):
        if page.exists():
            check_links(page)
    for page in [*pages, ROOT / "README.md"]:
        name = page.relative_to(SRC).as_posix() if page.is_relative_to(SRC) else "README.md"
        kinds = [kind for kind, _ in FENCE.findall(page.read_text())]
        check_commands(page, ci)
        if any(kind.startswith("rust") for kind in kinds) and f"{name}\"" not in compiled:
            wrong.append(f"{name}: its Rust code is not compiled by tests/book.rs")
        if any("ignore" in kind for kind in kinds):
            wrong.append(f"{name}: a block is ignored by the compiler")
        if name not in ("README.md", "SUMMARY.md") and f"({name})" not in summary:
            wrong.append(f"{name} is not in SUMMARY.md")
    rules = (ROOT / "docker" / "prometheus" / "perennial.rules.yml").read_text()
    runbooks = anchors(SRC / "runbooks.md")
    for alert in re.findall(r"- alert: (\S+)", rules):
        if anchor(alert) not in runbooks or f"runbooks.md#{anchor(alert)}\n" not in rules:
            wrong.append(f"{alert} has no runbook")
    for line in wrong:
        print(line, file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
