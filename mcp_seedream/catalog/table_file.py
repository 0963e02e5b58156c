"""Reads and validates the capability table; errors name the line at fault."""

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
    """Read and validate the built-in table, or the file at `path`.

    Raises:
        ConfigurationError: The file can't be read, or its contents are invalid; names the line at fault.
    """
    source = str(path) if path else "models.toml"
    try:
        text = path.read_text("utf-8") if path else files(__package__).joinpath("models.toml").read_text("utf-8")
        table = ModelTable.model_validate(tomllib.loads(text))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"The model table {source} can't be read: {error}") from error
    except ValidationError as error:
        # A misspelt key causes two errors, "missing" and "extra": report the misspelling.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        fault: _Fault | None = (first["loc"], why_invalid(first))
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
    """Yield inconsistencies of a table whose parts are valid: duplicate names, unknown parameters, swapped bounds."""
    for operation in get_args(Operation):
        if not table.models_for(operation):
            yield ("models",), f"no model can {operation}"
    names: set[str] = set()
    for index, model in enumerate(table.models):
        # A caller may use any of these. Names must differ between models, not within one model.
        by_key = dict(zip(("id", "label", "name"), model.names(), strict=True))
        for key, name in by_key.items():
            if name in names:
                yield ("models", index, key), f"{name} is used twice"
        names |= set(by_key.values())
        yield from _model_faults(table, index, model)
    yield from _combination_faults(table)


def _model_faults(table: ModelTable, index: int, model: Model) -> Iterator[_Fault]:
    if not (model.generate or model.max_images):
        yield ("models", index, "generate"), "it neither generates nor edits"
    for key, bounds in (("pixels", model.pixels), ("sides", model.sides)):
        if bounds and not 0 < bounds[0] <= bounds[1]:
            yield ("models", index, key), "the lower bound must come first"
    for name, rule in model.parameters.items():
        at: _Location = ("models", index, "parameters", name)
        if name not in table.parameters:
            yield at, "is not one of [parameters]"
        elif fault := _rule_fault(table.parameters[name], rule):
            yield at, fault


def _combination_faults(table: ModelTable) -> Iterator[_Fault]:
    for index, combination in enumerate(table.combinations):
        for key in ("when", "needs", "excludes"):
            for name in getattr(combination, key):
                if name not in table.parameters:
                    yield ("combinations", index, key), f"{name} is not one of [parameters]"


def _rule_fault(parameter: Parameter, rule: Rule) -> str | None:
    """Return a contradiction within a rule, or between the rule and its parameter's type; None if there is none."""
    numeric = parameter.type in ("integer", "number")
    if rule.values is not None and parameter.type != "string":
        return f"only a string has values, not a {parameter.type}"
    if (rule.minimum is not None or rule.maximum is not None) and not numeric:
        return f"only a number has bounds, not a {parameter.type}"
    if rule.minimum is not None and rule.maximum is not None and rule.minimum > rule.maximum:
        return "minimum is above maximum"
    if rule.default is None:
        return None
    python_type = {"boolean": bool, "integer": int, "number": int | float}.get(parameter.type, str)
    if not isinstance(rule.default, python_type) or (numeric and isinstance(rule.default, bool)):
        return f"default is not a {parameter.type}"
    return f"default {violation}" if (violation := rule.violation(rule.default)) else None


def _line_of(text: str, location: _Location) -> int:
    """Return the line number of the value at `location`, or of its nearest ancestor in the file."""
    best, depth = 1, 0
    here: _Location = ()
    array_indexes: dict[str, int] = {}
    for number_, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[\[?)\s*([\w.\"-]+?)\s*\]", line):
            names = [name.strip('"') for name in header[2].split(".")]
            if header[1] == "[[":
                array_indexes[names[0]] = array_indexes.get(names[0], -1) + 1
            in_array = names[0] in array_indexes
            here = (names[0], array_indexes[names[0]], *names[1:]) if in_array else tuple(names)
        elif key := re.match(r"\s*\"?([\w-]+)\"?\s*=", line):
            key_path = (*here, key[1])
            if location[: len(key_path)] == key_path and len(key_path) > depth:
                best, depth = number_, len(key_path)
            continue
        if here and location[: len(here)] == here and len(here) > depth:
            best, depth = number_, len(here)
    return best
