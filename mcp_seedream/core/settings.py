"""Reads the settings: the command line stands above the environment, and that above `.env`.

A folder that somebody else made may have a `.env`, and clients start servers in the folder that is open. So the file
may change harmless settings only, unless the token that is used stands in it as well: see `_counts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from mcp_seedream.core import setting_rules
from mcp_seedream.core.credentials import clean_token, placeholder_reason
from mcp_seedream.core.env_file import FILE, EnvFile, read_env_file
from mcp_seedream.core.errors import ConfigurationError, why_invalid
from mcp_seedream.core.setting_fields import HARMLESS, HTTP_ONLY, ClaudeCode, Settings, name_of

__all__ = [
    "ClaudeCode",
    "Settings",
    "Sources",
    "about_passed_over",
    "about_trouble",
    "complaints",
    "name_of",
    "read_settings",
    "sources",
]

Use = Literal["local", "hosted", "doctor"]
"""Who reads them: a process of one person (stdio, `try`, `install`), a server over HTTP, or `doctor`, for both."""
_OURS = ("SEEDREAM_", "ACEDATACLOUD_")
_FIELDS = {name_of(field): field for field in Settings.model_fields}


@dataclass(frozen=True, slots=True)
class Sources:
    """What the environment and `.env` say, as it is written there, by names in upper case.

    Args:
        use: Who reads them.
        environment: All variables.
        filed: The settings of `.env` that count.
        passed_over: Names of settings in `.env` that do not count, because they could lead the token elsewhere.
        unknown: Names that look like settings and are none.
        trouble: Why `.env` can't be read.
    """

    use: Use
    environment: Mapping[str, str]
    filed: Mapping[str, str]
    passed_over: tuple[str, ...]
    unknown: tuple[str, ...]
    trouble: str

    def settings(self, **given: Any) -> Settings:
        """The settings; `given` stands above all that is written.

        Raises:
            ConfigurationError: One is unusable; names each that is.
        """
        if self.trouble and self.use == "hosted":
            raise ConfigurationError(f"The setting {FILE} is wrong: {self.trouble}")
        try:
            return Settings(**self.values(**given))
        except ValidationError as error:
            wrong = complaints(error)
        raise ConfigurationError("\n".join(f"The setting {name} is wrong: {why}" for name, why in wrong.items()))

    def values(self, **given: Any) -> dict[str, Any]:
        """What `Settings` is made of beside the environment, by field."""
        unread = HTTP_ONLY if self.use == "local" else ()
        defaults = {field: Settings.model_fields[field].get_default() for field in unread}
        filed = {_FIELDS[name]: value for name, value in self.filed.items()}
        return filed | {field: value for field, value in given.items() if value is not None} | defaults

    def warnings(self) -> list[str]:
        """Warnings for the log of the server's start."""
        told = [about_trouble(self.trouble)] if self.trouble else []
        if self.passed_over:
            who = "a server over HTTP" if self.use == "hosted" else "a server whose token is not in the same file"
            told.append(about_passed_over(self.passed_over, who))
        for name in self.unknown:
            from difflib import get_close_matches  # noqa: PLC0415  (slow to import, and seldom wanted)

            meant = get_close_matches(name, _FIELDS, 1)
            told.append(f"{name} is not a setting, and does nothing.{f' Is {meant[0]} meant?' if meant else ''}")
        return told


def about_trouble(why: str) -> str:
    """What to say of a `.env` that can't be read."""
    return f"{FILE} in {Path.cwd()} is passed over: {why}."


def about_passed_over(names: tuple[str, ...], who: str) -> str:
    """What to say of settings in `.env` that do not count; `who` passes them over."""
    return (
        f"{', '.join(names)} in {Path.cwd() / FILE}: passed over, since {who} takes no addresses, paths or secrets "
        "from there. Set them in the environment."
    )


def sources(use: Use) -> Sources:
    """Look at the environment and `.env`, each once."""
    environment = {name.upper(): value or "" for name, value in EnvSettingsSource(Settings).env_vars.items()}
    file = read_env_file()
    own_token = name_of("token") not in environment and _has_token_of_its_own(file)
    filed, passed_over = dict[str, str](), list[str]()
    for name, field in _FIELDS.items():
        if name in environment or name not in file.values or (use == "local" and field in HTTP_ONLY):
            continue
        if field in HARMLESS or field == "token":
            filed[name] = file.values[name]
        elif _counts(field, use, own_token=own_token):
            filed[name] = file.literal[name]  # with nothing of the environment in it, which may be secret
        elif not setting_rules.is_left_empty(file.literal[name]):
            passed_over.append(name)
    ours = {name for name in {*environment, *file.values} if name.startswith(_OURS)}
    unknown = tuple(sorted(ours - _FIELDS.keys()))
    return Sources(use, environment, filed, tuple(sorted(passed_over)), unknown, file.trouble)


def read_settings(use: Use = "hosted", /, **given: Any) -> Settings:
    """The settings; `given` (from the command line) stands above the environment, and that above `.env`.

    Raises:
        ConfigurationError: One is unusable; names each that is.
    """
    return sources(use).settings(**given)


def _counts(field: str, use: Use, *, own_token: bool) -> bool:
    """Whether an address, path or secret of `.env` counts: only with the token that is used in the same file.

    Over HTTP it never does, since callers bring tokens that are not in the file.
    """
    return own_token and use != "hosted" and field not in HTTP_ONLY


def _has_token_of_its_own(file: EnvFile) -> bool:
    """Whether there is a token in it that is not a placeholder, and does not refer to the environment."""
    written = file.literal.get(name_of("token"), "")
    if setting_rules.is_left_empty(written) or written != file.values[name_of("token")]:
        return False
    try:
        token = clean_token(written)
    except ValueError:
        return False
    return bool(token) and not placeholder_reason(token)


def complaints(error: ValidationError) -> dict[str, str]:
    """What is wrong with each setting, by its name in the environment; one of the command line has the same."""
    found: dict[str, str] = {}
    for each in error.errors(include_input=False, include_url=False):
        field = str(each["loc"][0]) if each["loc"] else "settings"
        name = name_of(field) if field in Settings.model_fields else field
        found.setdefault(name, why_invalid(each))
    return found
