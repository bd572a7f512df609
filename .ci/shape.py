#!/usr/bin/env python3
"""Counts what a reader of the published crates must keep in mind, and fails where it is too much.

    .ci/shape.py [--root DIR]

Public types and constants, lines of src without tests, import loops between files, and blocks of six
equal lines that stand twice. `testing` modules count as lines, but not as public API.
"""

import argparse
import re
import sys
from collections import defaultdict
from pathlib import Path

CRATES = ["perennial", "perennial-vault", "perennial-postgres"]
# Raised only together with what the reader gets for it, in ARCHITECTURE.md ("The public surface").
MOST_TYPES, MOST_CONSTANTS, MOST_LINES = 59, 0, 22_800
BLOCK = 6

COMMENT_OR_STRING = re.compile(
    r"//[^\n]*|/\*.*?\*/|b?r(#*)\".*?\"\1|b?\"(?:\\.|[^\"\\])*\"|b?'(?:\\[^\n]{1,9}?|[^'\\\n])'", re.S)
TEST_MODULE = re.compile(r"^[ \t]*#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([a-z]+\))? )?mod (\w+)\s*([;{])", re.M)
USE = re.compile(r"^[ \t]*(pub(?:\([^)]*\))? )?use ([^;]+);", re.M)
# Of a signature over several lines only the first counts: a trait dictates its methods' parameters.
PARAMETERS = re.compile(r"\bfn \w+\(\n[^;{]*\{", re.M)
ITEM = re.compile(r"^(?:pub(?:\([^)]*\))? )(?:unsafe |async |const )*(?:struct|enum|trait|type|fn|const|static|union) (\w+)", re.M)
PATH = re.compile(r"\b(?:crate|super)(?:::\w+)+")


def blank(text):
    """The same text with spaces where its comments and strings were."""
    return COMMENT_OR_STRING.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def closing(text, start):
    """The place after the brace that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError("a brace is not closed")


def without_test_modules(text):
    """The text without `#[cfg(test)] mod`, and the names of those that are files."""
    plain, kept, names, at = blank(text), [], [], 0
    for found in TEST_MODULE.finditer(plain):
        if found.start() < at:
            continue
        kept.append(text[at:found.start()])
        at = closing(plain, found.end() - 1) if found[2] == "{" else found.end()
        at += text[at:at + 1] == "\n"
        if found[2] == ";":
            names.append(found[1])
    return "".join(kept) + text[at:], names


class Crate:
    """The source files of one crate, by module path such as `("live", "builder")`."""

    def __init__(self, folder):
        self.src = folder / "src"
        self.text, self.file, test_files = {}, {}, set()
        for file in sorted(self.src.rglob("*.rs")):
            inside = file.relative_to(self.src).with_suffix("").parts
            if file.stem == "tests" or file.stem.endswith("_tests") or "tests" in inside:
                continue
            module = () if inside == ("lib",) else inside
            self.text[module], names = without_test_modules(file.read_text())
            self.file[module] = file
            test_files |= {(*module, name) for name in names}
        for module in [found for found in self.text if any(found[:len(test)] == test for test in test_files)]:
            del self.text[module], self.file[module]
        self.plain = {module: blank(text) for module, text in self.text.items()}
        self.uses = {module: list(self.uses_in(module)) for module in self.text}

    def uses_in(self, module):
        """Each use as (visibility, path, the name that it gets here)."""
        for visibility, tree in USE.findall(self.plain[module]):
            for path, name in leaves(" ".join(tree.split())):
                yield visibility.strip(), path, name

    def resolve(self, module, path, seen=()):
        """The module in which the item of this path is written, by way of re-exports; or none of ours."""
        if path[0] == "crate":
            at, path = (), path[1:]
        elif path[0] in ("super", "self") or (*module, path[0]) in self.text:
            at = module
        else:
            return None
        while path and path[0] in ("super", "self"):
            at, path = at[:-1] if path[0] == "super" else at, path[1:]
        while path and (*at, path[0]) in self.text:
            at, path = (*at, path[0]), path[1:]
        if not path or (at, path[0]) in seen:
            return at
        for _, target, name in self.uses.get(at, []):
            if name in (path[0], "*") and (name != "*" or not self.defines(at, path[0])):
                followed = self.resolve(at, target if name != "*" else [*target, path[0]], (*seen, (at, path[0])))
                if followed is not None and (name != "*" or self.defines(followed, path[0])):
                    return followed
        return at

    def defines(self, module, name):
        return name in ITEM.findall(self.plain.get(module, ""))

    def public_names(self, module=()):
        """What can be named from outside: re-exports, items, and those of public modules."""
        text = re.sub(r"#\[doc\(hidden\)\]\s*pub use[^;]+;", "", self.plain[module])
        for visibility, tree in USE.findall(text):
            for path, name in leaves(" ".join(tree.split())) if visibility.strip() == "pub" else []:
                if name == "*" and (target := self.resolve(module, path)) is not None:
                    yield from self.public_names(target)
                elif len(path) > 1 and self.resolve(module, path) is not None:
                    yield name
        yield from (found[1] for found in ITEM.finditer(text) if found[0].startswith("pub "))
        for name in re.findall(r"^pub mod (\w+)", text, re.M):
            if name != "testing" and (*module, name) in self.text:
                yield from self.public_names((*module, name))

    def types(self):
        return {name for name in self.public_names() if re.match(r"[A-Z]+[a-z]", name) or name in ("Or",)}

    def constants(self):
        """Associated ones too."""
        found = re.compile(r"^\s*pub (?:const|static) ([A-Z_0-9]+)\b", re.M)
        return [name for module, text in self.plain.items() if "testing" not in module for name in found.findall(text)]

    def namesakes(self):
        """Types of one name in several files."""
        types = re.compile(r"^pub(?:\([^)]*\))? (?:struct|enum|trait|type|union) (\w+)", re.M)
        where = defaultdict(list)
        for module, text in self.plain.items():
            for name in types.findall(text):
                where[name].append("::".join(module) or "lib")
        return [f"{name} in {' and '.join(modules)}" for name, modules in where.items() if len(modules) > 1]

    def lines(self):
        return sum(len(text.splitlines()) for text in self.text.values())

    def imports(self):
        """File by file, those that it uses; a parent and its own children are one thing."""
        graph = defaultdict(set)
        for module, text in self.plain.items():
            # A re-export alone is no use: it was followed to where the item is written.
            paths = [path for visibility, path, _ in self.uses[module] if not visibility]
            paths += [found.split("::") for found in PATH.findall(USE.sub("", text))]
            for path in paths:
                target = self.resolve(module, path)
                if target is not None and target[:-1] != module and module[:-1] != target:
                    graph[module].add(target)
        return graph

    def loops(self):
        """Each smallest way round that is found, as module paths."""
        graph, loops = self.imports(), {}
        for start in sorted(graph):
            ways, seen = [[start]], {start}
            while ways:
                way = ways.pop(0)
                for target in sorted(graph[way[-1]]):
                    if target == start and len(way) > 1:
                        loops.setdefault(frozenset(way), way + [start])
                        ways = []
                        break
                    if target not in seen:
                        seen.add(target)
                        ways.append(way + [target])
        return [" -> ".join("::".join(module) or "lib" for module in way) for way in loops.values()]


def leaves(tree, before=()):
    """The paths of `a::{b, c::d as e}`, each with the name that it gets."""
    head, brace, rest = tree.partition("{")
    if not brace:
        path, _, name = tree.partition(" as ")
        path = [*before, *(part for part in path.strip().split("::") if part)]
        if path[-1] == "self" and len(path) > 1:
            path.pop()
        name = name.strip() or path[-1]
        yield path[:-1] if name == "*" else path, name
        return
    before = [*before, *(part for part in head.strip().split("::") if part)]
    depth, part = 0, ""
    for letter in rest.rstrip()[:-1] + ",":
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            if part.strip():
                yield from leaves(part.strip(), before)
            part = ""
        else:
            part += letter


def telling_lines(crate, module):
    """(line number, text) of what is not a use, a parameter, a comment, blank or punctuation."""
    hidden = set()
    for found in USE.finditer(crate.plain[module]):
        first = crate.plain[module].count("\n", 0, found.start())
        hidden |= set(range(first, crate.plain[module].count("\n", 0, found.end()) + 1))
    for found in PARAMETERS.finditer(crate.plain[module]):
        first = crate.plain[module].count("\n", 0, found.start())
        hidden |= set(range(first + 1, crate.plain[module].count("\n", 0, found.end()) + 1))
    lines = crate.text[module].splitlines()
    for number, line in enumerate(lines):
        text = line.strip()
        if number not in hidden and not text.startswith("//") and re.search(r"\w", text):
            yield number + 1, text


def repeated(crates):
    """Blocks of at least six equal lines that stand twice, each as (lines, places)."""
    windows = defaultdict(list)
    for crate in crates:
        for module in crate.text:
            lines = list(telling_lines(crate, module))
            for at in range(len(lines) - BLOCK + 1):
                windows[tuple(text for _, text in lines[at:at + BLOCK])].append((crate, module, lines[at][0]))
    blocks, covered = [], set()
    for window, places in windows.items():
        if len(places) < 2:
            continue
        # One that begins a line further on belongs to the block before.
        if not any((crate.src, module, line - step) in covered for crate, module, line in places for step in range(1, BLOCK)):
            blocks.append([f"{crate.file[module]}:{line}" for crate, module, line in places])
        covered |= {(crate.src, module, line) for crate, module, line in places}
    return blocks


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    root = arguments.parse_args().root
    crates = [Crate(root / "crates" / name) for name in CRATES]
    types, constants = sum(len(crate.types()) for crate in crates), sum(len(crate.constants()) for crate in crates)
    lines, loops, blocks = sum(crate.lines() for crate in crates), [], repeated(crates)
    for name, crate in zip(CRATES, crates):
        found = crate.loops()
        loops += found
        print(f"{name}: {len(crate.types())} public types, {len(crate.constants())} public constants, "
              f"{crate.lines()} lines, {len(found)} import loops")
    print(f"together: {types} public types, {constants} public constants, {lines} lines, "
          f"{len(loops)} import loops, {len(blocks)} repeated blocks")
    for loop in loops:
        print(f"  loop: {loop}")
    for name, crate in zip(CRATES, crates):
        for namesake in crate.namesakes():
            print(f"  type of one name: {name}: {namesake}")
    for places in blocks:
        print(f"  repeated: {' and '.join(place.removeprefix(f'{root}/') for place in places)}", flush=True)
    wrong = [
        (types > MOST_TYPES, f"more than {MOST_TYPES} public types"),
        (constants > MOST_CONSTANTS, "public constants"),
        (lines > MOST_LINES, f"more than {MOST_LINES} lines"),
        (bool(loops), "import loops"),
        (bool(blocks), "repeated blocks"),
    ]
    for is_wrong, what in wrong:
        if is_wrong:
            print(f"too much: {what}", file=sys.stderr)
    return any(is_wrong for is_wrong, _ in wrong)


if __name__ == "__main__":
    sys.exit(main())
