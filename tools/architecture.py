"""The pictures of docs/architecture.md, in Mermaid: the packages, the path of a call, and the states of an attempt.

Imports and states are read from the code. The steps of a call are written here, and `faults` compares them with the
code. `python -m tools.documents` writes the pictures, and a test compares them.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import grimp

from mcp_seedream.generation import attempt_store
from mcp_seedream.generation.attempt_store import State

ROOT = Path(__file__).parent.parent
PACKAGE = "mcp_seedream"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a call. `client` and `AceDataCloud` are outside of the package; all other names are modules.

    `name` is the function or class that is called, or the method or path of a request.
    """

    caller: str
    callee: str
    name: str
    words: str


CALL = (
    Step("client", "server.tools", "tools/call", "the arguments"),
    Step("server.tools", "catalog.arguments", "image_call", "checks each argument"),
    Step("server.tools", "generation.service", "make", "makes the picture"),
    Step("generation.service", "catalog.fallback", "ModelChoice", "chooses a model, checks the size"),
    Step("generation.service", "media.inputs", "prepare", "edits only: the input pictures"),
    Step("media.inputs", "media.decoding", "fit", "makes them fit, in a subprocess"),
    Step("generation.service", "generation.call_attempt", "claim", "looks for an identical call"),
    Step("generation.service", "upstream.client", "submit", "if there is none"),
    Step("upstream.client", "AceDataCloud", "/seedream/images", "the task's id"),
    Step("generation.service", "generation.call_attempt", "accepted", "stores the task's id"),
    Step("generation.service", "upstream.poller", "wait", "up to wait_seconds"),
    Step("upstream.poller", "upstream.client", "look_up", "every two seconds"),
    Step("upstream.client", "AceDataCloud", "/seedream/tasks", "the links"),
    Step("server.tools", "media.outputs", "deliver", "saves and previews"),
    Step("media.outputs", "media.downloads", "fetch", "downloads the picture"),
    Step("server.tools", "server.results", "task_result", "text and structured content"),
    Step("server.tools", "client", "CallToolResult", "the result"),
)
"""The steps of `generate_image` or `edit_image`, without errors, streams and background calls."""


def parts() -> dict[str, str]:
    """The generated parts by name."""
    wrong = faults(CALL)
    assert not wrong, wrong
    return {"imports": imports(), "packages": packages(), "call": call(CALL), "states": states()}


def imports() -> str:
    """The packages and their imports. An arrow that follows from others is left out."""
    imported = imports_of_packages()
    lines = ["flowchart TD", *_described("Packages", "Each package, with arrows to the packages that it imports.")]
    for name in _layered():
        lines += [f"    {name} --> {other}" for other in sorted(_direct(imported, name))]
    return _mermaid(lines)


def packages() -> str:
    """What each package is for, by the first line of its docstring, from the top down."""
    rows = ["| package | description |", "| --- | --- |"]
    for name in _layered():
        folder = ROOT / PACKAGE / name
        path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        words = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]
        assert words, f"{name} has no docstring"
        rows.append(f"| `{name}` | {words} |")
    return "\n".join(rows) + "\n"


def call(steps: Sequence[Step]) -> str:
    """The steps of a call, numbered."""
    lines = ["flowchart TD", *_described("A call", "The modules that a call passes, with numbered arrows.")]
    outside = dict.fromkeys(name for step in steps for name in (step.caller, step.callee) if "." not in name)
    lines += [f"    {name}([{name}])" for name in outside]
    for number, step in enumerate(steps, 1):
        label = f"{number} · {step.name}<br>{step.words}"
        lines.append(f'    {_node(step.caller)} -- "{label}" --> {_node(step.callee)}')
    return _mermaid(lines)


def faults(steps: Sequence[Step]) -> list[str]:
    """What the code does not do as the steps say."""
    return [fault for step in steps for fault in _faults(step)]


def _faults(step: Step) -> Iterator[str]:
    said = f"{step.caller} -> {step.callee}.{step.name}"
    modules = [name for name in (step.caller, step.callee) if "." in name]
    if missing := [name for name in modules if not _path(name).is_file()]:
        yield f"{said}: there is no module {missing[0]}"
        return
    if step.caller == "client":
        return
    tree = ast.parse(_path(step.caller).read_text("utf-8"))
    if step.callee in modules:
        if step.callee not in _imported(tree):
            yield f"{said}: it is not imported"
        if step.name not in _defined(ast.parse(_path(step.callee).read_text("utf-8"))):
            yield f"{said}: it is not defined"
    if step.name not in _used(tree):
        yield f"{said}: it is not used"


def states() -> str:
    """The states of an attempt, from the table in the docstring of its module."""
    moves = transitions(attempt_store.__doc__ or "")
    named = {name for move in moves for name in move[:2] if name}
    assert named == set(State.__members__), f"the table and the states differ: {named ^ set(State.__members__)}"
    lines = ["stateDiagram-v2", *_described("Attempts", "The states of an attempt, and the events that change them.")]
    lines += [f"    {before or '[*]'} --> {after}: {when.partition(';')[0]}" for before, after, when in moves]
    lines += [f"    {name} --> [*]" for name in State.__members__ if all(name != before for before, *_ in moves)]
    return _mermaid(lines)


def transitions(text: str) -> list[tuple[str, str, str]]:
    """The rows of a table of states: from ("" at the start), to, and when; a row may have several states to leave."""
    rows = re.findall(r"^ *\| *([A-Z, ]*?) *\| *([A-Z]+) *\| *(.+?) *\|$", text, flags=re.MULTILINE)
    return [(before, after, when) for several, after, when in rows for before in several.split(", ")]


def imports_of_packages() -> dict[str, AbstractSet[str]]:
    """What each package imports from others, as the contract in pyproject.toml counts it."""
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    names = sorted(graph.find_children(PACKAGE))
    for name in names:
        if graph.find_children(name):
            graph.squash_module(name)
    found = {name: graph.find_modules_directly_imported_by(name) - {PACKAGE} for name in names}
    return {_short(name): {_short(other) for other in others} for name, others in found.items()}


def _direct(imported: Mapping[str, AbstractSet[str]], name: str) -> set[str]:
    """The imports of a package, without those that follow from other arrows."""
    return {
        other
        for other in imported[name]
        if not any(other in _reached(imported, between) for between in imported[name] - {other})
    }


def _reached(imported: Mapping[str, AbstractSet[str]], name: str) -> set[str]:
    return {other for each in imported[name] for other in {each, *_reached(imported, each)}}


def _layered() -> list[str]:
    """The packages from the top down, as the contract in pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    [layers] = [each["layers"] for each in project["tool"]["importlinter"]["contracts"] if each["id"] == "layers"]
    return [name for layer in layers for name in layer.split(" | ") if name != "__main__"]


def _imported(tree: ast.Module) -> set[str]:
    """The modules of the package from which something is imported."""
    found = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{each.name}" for each in node.names}
    return {_short(name) for name in found}


def _defined(tree: ast.Module) -> set[str]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def _used(tree: ast.Module) -> set[str]:
    """The names and texts in a module."""
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return found | {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}


def _path(module: str) -> Path:
    return ROOT.joinpath(PACKAGE, *module.split(".")).with_suffix(".py")


def _short(module: str) -> str:
    return module.removeprefix(f"{PACKAGE}.")


def _node(name: str) -> str:
    """A node of a flowchart. Its id can't be the name of a module, since that has a dot."""
    id_ = name.replace(".", "_")
    return id_ if id_ == name else f'{id_}["{name}"]'


def _described(title: str, description: str) -> list[str]:
    """For readers who can't see the picture."""
    return [f"    accTitle: {title}", f"    accDescr: {description}"]


def _mermaid(lines: Sequence[str]) -> str:
    return "\n".join(["```mermaid", *lines, "```"]) + "\n"
