#!/usr/bin/env python3
"""Keeps docs/api/<crate>.txt: the public API of each published crate, one line an item, all features on.

    .ci/surface.py            fails where a listing differs, and shows the difference
    .ci/surface.py --write    writes the listings

Rustdoc's JSON is the source. The `testing` module, and implementations that every type gets, are left out.
"""

import difflib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LISTINGS = ROOT / "docs" / "api"
CRATES = ["perennial", "perennial-vault", "perennial-postgres"]
LEFT_OUT = {"testing"}


def rustdoc():
    """Documents the crates as JSON, and returns the folder with it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    tools = target / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    # For rustdoc alone: cargo would build every dependency anew under RUSTC_BOOTSTRAP.
    wrapper = tools / "rustdoc-json"
    wrapper.write_text('#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc "$@"\n')
    wrapper.chmod(0o755)
    environment = {**os.environ, "RUSTDOC": str(wrapper),
                   "RUSTDOCFLAGS": "-Z unstable-options --output-format json"}
    crates = [word for name in CRATES for word in ("--package", name)]
    subprocess.run(["cargo", "doc", "--quiet", "--locked", "--no-deps", "--lib", "--all-features", *crates],
                   cwd=ROOT, env=environment, check=True)
    return target / "doc"


def commas(parts):
    return ", ".join(parts)


def generic_arguments(args):
    if args is None:
        return ""
    if "parenthesized" in args:
        inside = args["parenthesized"]
        output = f" -> {rust_type(inside['output'])}" if inside["output"] else ""
        return f"({commas(map(rust_type, inside['inputs']))}){output}"
    inside = args["angle_bracketed"]
    parts = [rust_type(arg["type"]) if "type" in arg else
             arg.get("lifetime") or arg.get("const", {}).get("expr") or "_" for arg in inside["args"]]
    for constraint in inside["constraints"]:
        binding = constraint["binding"]
        if "equality" in binding:
            parts.append(f"{constraint['name']} = {rust_type(binding['equality'].get('type'))}")
        else:
            parts.append(f"{constraint['name']}: {rust_bounds(binding['constraint'])}")
    return f"<{commas(parts)}>" if parts else ""


def path(resolved):
    """As the source writes it, but for modules of our own and of std."""
    name = re.sub(r"^(?:crate|std|core|alloc)::(?:\w+::)*", "", resolved["path"])
    return name + generic_arguments(resolved["args"])


def rust_bounds(bounds):
    parts = []
    for bound in bounds:
        if "trait_bound" in bound:
            trait = bound["trait_bound"]
            lifetimes = commas(param["name"] for param in trait["generic_params"])
            mark = "?" if trait["modifier"] == "maybe" else ""
            parts.append((f"for<{lifetimes}> " if lifetimes else "") + mark + path(trait["trait"]))
        elif "outlives" in bound:
            parts.append(bound["outlives"])
        else:
            parts.append(f"use<{commas(next(iter(use.values())) for use in bound['use'])}>")
    return " + ".join(parts)


def rust_type(found):
    if found is None or found == "infer":
        return "_"
    kind, inside = next(iter(found.items()))
    match kind:
        case "resolved_path":
            return path(inside)
        case "generic" | "primitive":
            return inside
        case "borrowed_ref":
            lifetime = f"{inside['lifetime']} " if inside["lifetime"] else ""
            return f"&{lifetime}{'mut ' if inside['is_mutable'] else ''}{rust_type(inside['type'])}"
        case "raw_pointer":
            return f"*{'mut' if inside['is_mutable'] else 'const'} {rust_type(inside['type'])}"
        case "tuple":
            return f"({commas(map(rust_type, inside))}{',' if len(inside) == 1 else ''})"
        case "slice":
            return f"[{rust_type(inside)}]"
        case "array":
            return f"[{rust_type(inside['type'])}; {inside['len']}]"
        case "impl_trait":
            return f"impl {rust_bounds(inside)}"
        case "dyn_trait":
            traits = [{"trait_bound": {**trait, "modifier": "none"}} for trait in inside["traits"]]
            lifetime = f" + {inside['lifetime']}" if inside["lifetime"] else ""
            return f"dyn {rust_bounds(traits)}{lifetime}"
        case "qualified_path":
            of, trait = rust_type(inside["self_type"]), inside["trait"]
            named = f"<{of} as {path(trait)}>" if trait and trait["path"] else of
            return f"{named}::{inside['name']}{generic_arguments(inside['args'])}"
        case "function_pointer":
            sig = inside["sig"]
            output = f" -> {rust_type(sig['output'])}" if sig["output"] else ""
            return f"fn({commas(rust_type(of) for _, of in sig['inputs'])}){output}"
    raise ValueError(f"rustdoc names a type that this script does not know: {kind}")


def parameters(generics):
    """`<..>` and `where ..` of an item; what `impl Trait` arguments stand for is left out."""
    names = []
    for param in generics["params"]:
        kind, inside = next(iter(param["kind"].items()))
        if kind == "lifetime":
            names.append(param["name"])
        elif kind == "const":
            names.append(f"const {param['name']}: {rust_type(inside['type'])}")
        elif not inside["is_synthetic"]:
            bounds = f": {rust_bounds(inside['bounds'])}" if inside["bounds"] else ""
            default = f" = {rust_type(inside['default'])}" if inside["default"] else ""
            names.append(param["name"] + bounds + default)
    where = []
    for predicate in generics["where_predicates"]:
        kind, inside = next(iter(predicate.items()))
        if kind == "bound_predicate":
            where.append(f"{rust_type(inside['type'])}: {rust_bounds(inside['bounds'])}")
        elif kind == "lifetime_predicate":
            where.append(f"{inside['lifetime']}: {' + '.join(inside['outlives'])}")
        else:
            where.append(f"{rust_type(inside['lhs'])} = {rust_type(inside['rhs'].get('type'))}")
    return f"<{commas(names)}>" if names else "", f" where {commas(where)}" if where else ""


def signature(name, function):
    inputs = []
    for argument, of in function["sig"]["inputs"]:
        written = rust_type(of)
        is_self = argument == "self" and written.replace("&", "").removeprefix("mut ").split()[-1] == "Self"
        inputs.append(written.replace("Self", "self") if is_self else f"{argument}: {written}")
    output = f" -> {rust_type(function['sig']['output'])}" if function["sig"]["output"] else ""
    header = function["header"]
    words = [word for word in ("const", "async", "unsafe") if header[f"is_{word}"]]
    params, where = parameters(function["generics"])
    return f"{' '.join([*words, 'fn'])} {name}{params}({commas(inputs)}){output}{where}"


class Listing:
    """The lines of one crate."""

    def __init__(self, document):
        self.index, self.lines, self.traits = document["index"], set(), defaultdict(set)
        root = self.index[str(document["root"])]
        self.module(root["name"], root)
        for name, traits in self.traits.items():
            self.add(name, f"impl {' + '.join(sorted(traits))} for {name}")

    def add(self, name, line):
        # An item stands first, then what it implements, then its members.
        self.lines.add((name, line.startswith("impl"), line))

    def text(self):
        return "".join(f"{line}\n" for _, _, line in sorted(self.lines))

    def item(self, number):
        return self.index.get(str(number))

    def module(self, name, module):
        for item in map(self.item, module["inner"]["module"]["items"]):
            if item and item["name"] not in LEFT_OUT:
                self.public(name, item)

    def public(self, prefix, item, renamed=None):
        """An item of a module, by the name under which it is public there."""
        kind, inside = next(iter(item["inner"].items()))
        if item["visibility"] != "public" and kind not in ("variant", "assoc_type", "assoc_const"):
            return
        name = f"{prefix}::{renamed or item['name']}"
        if kind == "use":
            target = self.item(inside["id"]) if inside["id"] is not None else None
            if target is None or "use" in target["inner"]:
                self.add(f"{prefix}::{inside['name']}", f"pub use {prefix}::{inside['name']} = {inside['source']}")
            elif inside["is_glob"]:
                self.module(prefix, target)
            else:
                self.public(prefix, {**target, "visibility": "public"}, inside["name"])
            return
        if kind == "module":
            self.add(name, f"pub mod {name}")
            self.module(name, item)
            return
        open_ended = "#[non_exhaustive] " if "non_exhaustive" in item["attrs"] else ""
        params, where = parameters(inside["generics"]) if "generics" in inside else ("", "")
        match kind:
            case "function":
                self.add(name, f"pub {signature(name, inside)}")
            case "struct":
                self.add(name, f"{open_ended}pub struct {name}{params}{self.struct_fields(name, inside['kind'])}{where}")
            case "enum":
                self.add(name, f"{open_ended}pub enum {name}{params}{where}")
                for variant in map(self.item, inside["variants"]):
                    self.variant(name, variant)
            case "trait":
                bounds = f": {rust_bounds(inside['bounds'])}" if inside["bounds"] else ""
                self.add(name, f"pub trait {name}{params}{bounds}{where}")
                for member in map(self.item, inside["items"]):
                    self.member(name, member, "")
            case "type_alias":
                self.add(name, f"pub type {name}{params} = {rust_type(inside['type'])}{where}")
            case "constant" | "static":
                self.add(name, f"pub {'const' if kind == 'constant' else kind} {name}: {rust_type(inside['type'])}")
            case _:
                self.add(name, f"pub {kind} {name}")
        for number in inside.get("impls", []):
            self.implementation(name, params, self.item(number))

    def struct_fields(self, name, kind):
        if "tuple" in kind:
            shown = [self.item(field) if field is not None else None for field in kind["tuple"]]
            return f"({commas(rust_type(field['inner']['struct_field']) if field else '_' for field in shown)})"
        for field in map(self.item, kind["plain"]["fields"]) if "plain" in kind else []:
            if field and field["visibility"] == "public":
                self.add(f"{name}::{field['name']}", f"pub {name}::{field['name']}: {rust_type(field['inner']['struct_field'])}")
        return ""

    def variant(self, name, variant):
        kind = variant["inner"]["variant"]["kind"]
        fields = ""
        if kind != "plain":
            way, inside = next(iter(kind.items()))
            shown = [self.item(field) for field in (inside if way == "tuple" else inside["fields"]) if field is not None]
            types = [rust_type(field["inner"]["struct_field"]) for field in shown]
            named = [f"{field['name']}: {of}" for field, of in zip(shown, types)]
            fields = f"({commas(types)})" if way == "tuple" else f" {{ {commas(named)} }}"
        self.add(f"{name}::{variant['name']}", f"pub {name}::{variant['name']}{fields}")

    def member(self, name, member, visibility="pub "):
        if member is None:
            return
        kind, inside = next(iter(member["inner"].items()))
        full = f"{name}::{member['name']}"
        if kind == "function":
            default = " { .. }" if not visibility and inside["has_body"] else ""
            self.add(full, f"{visibility}{signature(full, inside)}{default}")
        elif kind == "assoc_const":
            self.add(full, f"{visibility}const {full}: {rust_type(inside['type'])}")
        elif kind == "assoc_type":
            bounds = f": {rust_bounds(inside['bounds'])}" if inside["bounds"] else ""
            self.add(full, f"{visibility}type {full}{bounds}")

    def implementation(self, name, params, implementation):
        inside = implementation["inner"]["impl"] if implementation else None
        if inside is None or inside["is_synthetic"] or inside["blanket_impl"]:
            return
        if inside["trait"] is None:
            for member in map(self.item, inside["items"]):
                if member and member["visibility"] == "public":
                    self.member(name, member)
        elif inside["trait"]["path"] != "StructuralPartialEq":
            generics, where = parameters(inside["generics"])
            if not (generics or where or params or inside["is_negative"]):
                self.traits[name].add(path(inside["trait"]))
                return
            negative = "!" if inside["is_negative"] else ""
            self.add(name, f"impl{generics} {negative}{path(inside['trait'])} for {name}{params}{where}")


def main():
    folder, differs = rustdoc(), False
    LISTINGS.mkdir(parents=True, exist_ok=True)
    for crate in CRATES:
        document = json.loads((folder / f"{crate.replace('-', '_')}.json").read_text())
        listing = Listing(document).text()
        page = LISTINGS / f"{crate}.txt"
        if "--write" in sys.argv[1:]:
            page.write_text(listing)
            continue
        known = page.read_text() if page.exists() else ""
        difference = list(difflib.unified_diff(known.splitlines(), listing.splitlines(), str(page.relative_to(ROOT)),
                                               "the code", lineterm="", n=0))
        print("\n".join(difference))
        differs |= bool(difference)
    if differs:
        print("the public API differs from docs/api: if that is meant, run .ci/run surface-update", file=sys.stderr)
    return differs


if __name__ == "__main__":
    sys.exit(main())
