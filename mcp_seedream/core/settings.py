"""Reads the settings. The command line overrides the environment, which overrides `.env`.

Clients start servers in the folder that is open, and its `.env` may come from somebody else. So the file may set only
harmless settings, unless it also contains the token that is used: see `_is_trusted`.
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
from mcp_seedream.core.env_file import FILE, PIPE_SECONDS, EnvFile, read_env_file
from mcp_seedream.core.errors import ConfigurationError, why_invalid
from mcp_seedream.core.setting_fields import HARMLESS, HTTP_ONLY, ClaudeCode, Settings, name_of

__all__ = [
    "ClaudeCode",
    "Settings",
    "Sources",
    "ignored_warning",
    "name_of",
    "read_error_warning",
    "read_settings",
    "sources",
    "validation_messages",
]

Use = Literal["local", "hosted", "doctor"]
"""The use of the settings: a local process (stdio, `try`, `install`), an HTTP server, or `doctor`, for both."""
_PREFIXES = ("SEEDREAM_", "ACEDATACLOUD_")
_FIELDS = {name_of(field): field for field in Settings.model_fields}


@dataclass(frozen=True, slots=True)
class Sources:
    """The unparsed values of the environment and `.env`, by name in upper case.

    Args:
        use: The use of the settings.
        environment: All environment variables.
        env_file: The settings of `.env` that are used.
        ignored: Names of settings in `.env` that are ignored, because they could send the token to another address.
        unknown: Names that look like settings but are not.
        read_error: Why `.env` can't be read.
    """

    use: Use
    environment: Mapping[str, str]
    env_file: Mapping[str, str]
    ignored: tuple[str, ...]
    unknown: tuple[str, ...]
    read_error: str

    def settings(self, **overrides: Any) -> Settings:
        """The settings; `overrides` take precedence over all sources.

        Raises:
            ConfigurationError: Settings are invalid; the message names each of them.
        """
        if self.read_error and self.use == "hosted":
            raise ConfigurationError(f"The setting {FILE} is wrong: {self.read_error}")
        try:
            return Settings(**self.values(**overrides))
        except ValidationError as error:
            messages = validation_messages(error)
        raise ConfigurationError("\n".join(f"The setting {name} is wrong: {why}" for name, why in messages.items()))

    def values(self, **overrides: Any) -> dict[str, Any]:
        """The arguments of `Settings`, by field, without the environment, which `Settings` reads itself."""
        unused = HTTP_ONLY if self.use == "local" else ()
        defaults = {field: Settings.model_fields[field].get_default() for field in unused}
        from_file = {_FIELDS[name]: value for name, value in self.env_file.items()}
        return from_file | {field: value for field, value in overrides.items() if value is not None} | defaults

    def warnings(self) -> list[str]:
        """Warnings for the log at startup."""
        warnings = [read_error_warning(self.read_error)] if self.read_error else []
        if self.ignored:
            reader = "a server over HTTP" if self.use == "hosted" else "a server whose token is not in the same file"
            warnings.append(ignored_warning(self.ignored, reader))
        for name in self.unknown:
            from difflib import get_close_matches  # noqa: PLC0415  (slow to import, and rarely needed)

            similar = get_close_matches(name, _FIELDS, 1)
            hint = f" Did you mean {similar[0]}?" if similar else ""
            warnings.append(f"{name} is not a setting and is ignored.{hint}")
        return warnings


def read_error_warning(reason: str) -> str:
    """A warning about a `.env` that can't be read."""
    return f"{FILE} in {Path.cwd()} is ignored: {reason}."


def ignored_warning(names: tuple[str, ...], reader: str) -> str:
    """A warning about settings in `.env` that `reader` ignores."""
    return (
        f"{', '.join(names)} in {Path.cwd() / FILE}: ignored, since {reader} reads no addresses, paths or secrets "
        "from there. Set them in the environment."
    )


def sources(use: Use, *, pipe_seconds: float = PIPE_SECONDS) -> Sources:
    """Read the environment and `.env`, each once; a `.env` that is a pipe may take `pipe_seconds`."""
    environment = {name.upper(): value or "" for name, value in EnvSettingsSource(Settings).env_vars.items()}
    file = read_env_file(pipe_seconds)
    has_token = name_of("token") not in environment and _has_token(file)
    used, ignored = dict[str, str](), list[str]()
    for name, field in _FIELDS.items():
        if name in environment or name not in file.values or (use == "local" and field in HTTP_ONLY):
            continue
        if field in HARMLESS or field == "token":
            used[name] = file.values[name]
        elif _is_trusted(field, use, has_token=has_token):
            used[name] = file.literal[name]  # without variables of the environment, which may be secret
        elif not setting_rules.is_left_empty(file.literal[name]):
            ignored.append(name)
    prefixed = {name for name in {*environment, *file.values} if name.startswith(_PREFIXES)}
    unknown = tuple(sorted(prefixed - _FIELDS.keys()))
    return Sources(use, environment, used, tuple(sorted(ignored)), unknown, file.error)


def read_settings(use: Use = "hosted", /, **overrides: Any) -> Settings:
    """The settings; `overrides`, from the command line, take precedence over the environment, and this over `.env`.

    Raises:
        ConfigurationError: Settings are invalid; the message names each of them.
    """
    return sources(use).settings(**overrides)


def _is_trusted(field: str, use: Use, *, has_token: bool) -> bool:
    """Whether an address, path or secret in `.env` is used: only if the token in use comes from the same file.

    Over HTTP it is never used, because callers send tokens that are not in the file.
    """
    return has_token and use != "hosted" and field not in HTTP_ONLY


def _has_token(file: EnvFile) -> bool:
    """Whether the file has a token that is neither a placeholder nor a reference to the environment."""
    literal = file.literal.get(name_of("token"), "")
    if setting_rules.is_left_empty(literal) or literal != file.values[name_of("token")]:
        return False
    try:
        token = clean_token(literal)
    except ValueError:
        return False
    return bool(token) and not placeholder_reason(token)


def validation_messages(error: ValidationError) -> dict[str, str]:
    """Why each invalid setting is invalid, by the name of its environment variable."""
    messages: dict[str, str] = {}
    for each in error.errors(include_input=False, include_url=False):
        field = str(each["loc"][0]) if each["loc"] else "settings"
        name = name_of(field) if field in Settings.model_fields else field
        messages.setdefault(name, why_invalid(each))
    return messages
