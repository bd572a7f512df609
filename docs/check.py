"""Checks what mdBook does not: links and anchors of every page, and the pages' promises.

- Each page is in SUMMARY.md; each link, anchor and picture exists.
- `.ci/run` runs each command in a ```console block. `console,by-hand` marks commands that take too
  long for it; the program or bench that they name must exist. A command that needs the reader's own
  cluster or Vault is `sh`.
- tests/tests/book.rs (or tests/book.rs) compiles each page with Rust code; no block is `ignore`.
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
    """The anchor that GitHub and mdBook make from a heading."""
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
    compiled = "".join(path.read_text() for path in (ROOT / "tests").rglob("book.rs"))
    # CI's commands, one per line.
    ci = (ROOT / ".ci" / "run").read_text()
    for page in sorted({*pages, *(ROOT / name for name in listed.stdout.split())}):
        if page.exists():
            check_links(page)
    for page in [*pages, ROOT / "README.md"]:
        name = page.relative_to(SRC).as_posix() if page.is_relative_to(SRC) else "README.md"
        kinds = [kind for kind, _ in FENCE.findall(page.read_text())]
        check_commands(page, ci)
        if any(kind.startswith("rust") for kind in kinds) and f"{name}\"" not in compiled:
            wrong.append(f"{name}: its Rust code is not compiled by book.rs")
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
