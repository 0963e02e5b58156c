"""Reads the capability table from its file, and says at which line it is wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from mcp_seedream.catalog.table import Model, ModelTable, Operation, Parameter, Rule
from mcp_seedream.core.errors import ConfigurationError, why_invalid


def read_table(path: Path | None = None) -> ModelTable:
    """Read and validate the table: the built-in one, or the file at `path`.

    Raises:
        ConfigurationError: The file can't be read, or is not such a table; names the line at fault.
    """
    source = str(path) if path else "models.toml"
    try:
        text = path.read_text("utf-8") if path else files(__package__).joinpath("models.toml").read_text("utf-8")
        table = ModelTable.model_validate(tomllib.loads(text))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"The model table {source} can't be read: {error}") from error
    except ValidationError as error:
        # A misspelt key makes two errors, one of them "missing": the misspelling is the one to show.
        found = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        fault: _Fault | None = (found["loc"], why_invalid(found))
    else:
        fault = next(_faults(table), None)
    if fault:
        location, message = fault
        where, line = ".".join(str(part) for part in location), _line_of(text, location)
        raise ConfigurationError(f"The model table {source} is wrong at line {line}: {where}: {message}")
    return table


_Location = tuple[int | str, ...]
_Fault = tuple[_Location, str]


def _faults(table: ModelTable) -> Iterator[_Fault]:
    """What is wrong with a table whose every part is well-formed: names and bounds that don't agree."""
    for operation in get_args(Operation):
        if not table.models_for(operation):
            yield ("models",), f"no model can {operation}"
    names: set[str] = set()
    for index, model in enumerate(table.models):
        # A caller may name a model by any of these; within one model they may be the same.
        known = dict(zip(("id", "label", "name"), model.called(), strict=True))
        for key, name in known.items():
            if name in names:
                yield ("models", index, key), f"{name} stands twice"
        names |= set(known.values())
        yield from _model_faults(table, index, model)
    yield from _combination_faults(table)


def _model_faults(table: ModelTable, index: int, model: Model) -> Iterator[_Fault]:
    if not (model.generate or model.max_images):
        yield ("models", index, "generate"), "it neither generates nor edits"
    for key, bounds in (("pixels", model.pixels), ("sides", model.sides)):
        if bounds and not 0 < bounds[0] <= bounds[1]:
            yield ("models", index, key), "the smaller bound comes first"
    for name, rule in model.parameters.items():
        at: _Location = ("models", index, "parameters", name)
        if name not in table.parameters:
            yield at, "is not one of [parameters]"
        elif complaint := _rule_fault(table.parameters[name], rule):
            yield at, complaint


def _combination_faults(table: ModelTable) -> Iterator[_Fault]:
    for index, combination in enumerate(table.combinations):
        for key in ("when", "needs", "excludes"):
            for name in getattr(combination, key):
                if name not in table.parameters:
                    yield ("combinations", index, key), f"{name} is not one of [parameters]"


def _rule_fault(parameter: Parameter, rule: Rule) -> str | None:
    """What does not fit together in one rule, or between it and the type of its parameter."""
    numeric = parameter.type in ("integer", "number")
    if rule.values is not None and parameter.type != "string":
        return f"only a string has values, not a {parameter.type}"
    if (rule.minimum is not None or rule.maximum is not None) and not numeric:
        return f"only a number has bounds, not a {parameter.type}"
    if rule.minimum is not None and rule.maximum is not None and rule.minimum > rule.maximum:
        return "minimum is above maximum"
    if rule.default is None:
        return None
    fits = {"boolean": bool, "integer": int, "number": int | float}.get(parameter.type, str)
    if not isinstance(rule.default, fits) or (numeric and isinstance(rule.default, bool)):
        return f"default is not a {parameter.type}"
    return f"default {complaint}" if (complaint := rule.complaint(rule.default)) else None


def _line_of(text: str, location: _Location) -> int:
    """The line where the value at `location` stands, or the nearest thing above it that exists."""
    best, depth = 1, 0
    here: _Location = ()
    seen: dict[str, int] = {}
    for number_, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[\[?)\s*([\w.\"-]+?)\s*\]", line):
            names = [name.strip('"') for name in header[2].split(".")]
            if header[1] == "[[":
                seen[names[0]] = seen.get(names[0], -1) + 1
            here = (names[0], seen[names[0]], *names[1:]) if names[0] in seen else tuple(names)
        elif key := re.match(r"\s*\"?([\w-]+)\"?\s*=", line):
            key_path = (*here, key[1])
            if location[: len(key_path)] == key_path and len(key_path) > depth:
                best, depth = number_, len(key_path)
            continue
        if here and location[: len(here)] == here and len(here) > depth:
            best, depth = number_, len(here)
    return best
