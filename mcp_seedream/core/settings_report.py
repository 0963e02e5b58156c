"""A report of all settings and their sources, valid or not, for `doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TextIO

from pydantic import SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource

from mcp_seedream.core.credentials import clean_token
from mcp_seedream.core.settings import Settings, Sources, name_of, sources, validation_messages

_HOSTING = (
    *("public_url", "seal_keys", "redis_url", "access_seconds", "refresh_seconds", "workers", "metrics_dir"),
    *("allowed_hosts", "allowed_origins", "cors_origins", "calls_at_once", "all_calls_at_once", "generations_a_minute"),
    *("check_seconds", "max_header_kib", "max_body_mib", "all_bodies_mib"),
)
"""Settings that only a server for other people needs."""


@dataclass(frozen=True, slots=True)
class SettingsReport:
    """The settings, and the unparsed values of the environment and `.env`.

    Args:
        settings: The settings; an invalid one has its default.
        invalid: Why settings are invalid, by name.
        unknown: Names that look like settings but are not.
        environment: Unparsed values of the environment.
        env_file: Unparsed values of `.env` that the environment does not override.
        ignored: Names of settings in `.env` that are ignored.
        read_error: Why `.env` can't be read.
        token_source: The client's settings that have the token, if the environment and `.env` have none.
        token_provider: The clients that provide a token which this process can't read.
    """

    settings: Settings
    invalid: Mapping[str, str]
    unknown: tuple[str, ...]
    environment: Mapping[str, str]
    env_file: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    read_error: str = ""
    token_source: str = ""
    token_provider: str = ""

    @property
    def serves_others(self) -> bool:
        """Whether a setting that only a server for other people needs is set, validly or not."""
        fields = Settings.model_fields
        is_set = any(getattr(self.settings, field) != fields[field].get_default() for field in _HOSTING)
        return is_set or any(name_of(field) in self.invalid for field in _HOSTING)

    def with_token(self, token: str, source: str) -> SettingsReport:
        """A copy with an unparsed token from `source`."""
        try:
            settings = self.settings.model_copy(update={"token": SecretStr(clean_token(token))})
        except ValueError as error:
            return replace(self, invalid={**self.invalid, name_of("token"): f"{error}, in {source}"})
        return replace(self, settings=settings, token_source=source)

    def with_sandbox(self, settings: Settings) -> SettingsReport:
        """A copy for a sandbox as the upstream, without the settings of the real upstream."""
        upstream = {name_of(field) for field in ("token", "base_url", "image_hosts")}
        invalid, environment, env_file = (
            {name: value for name, value in values.items() if name not in upstream}
            for values in (self.invalid, self.environment, self.env_file)
        )
        return SettingsReport(settings, invalid, self.unknown, environment, env_file, self.ignored, self.read_error)


def read_report() -> SettingsReport:
    """Read the environment and `.env`, even if settings are invalid."""
    setting_sources = sources("doctor")
    settings, invalid = _usable(setting_sources)
    names = {name_of(field) for field in Settings.model_fields}
    return SettingsReport(
        settings,
        invalid,
        setting_sources.unknown,
        {name: value for name, value in sorted(setting_sources.environment.items()) if name in names},
        dict(sorted(setting_sources.env_file.items())),
        setting_sources.ignored,
        setting_sources.read_error,
    )


def _usable(setting_sources: Sources) -> tuple[Settings, dict[str, str]]:
    """The settings with defaults for invalid ones, and why those are invalid."""
    try:
        return Settings(**setting_sources.values()), {}
    except ValidationError as error:
        invalid = validation_messages(error)
    fields = Settings.model_fields.items()
    defaults = {field: info.get_default() for field, info in fields if name_of(field) in invalid}
    return Settings(**setting_sources.values() | defaults), invalid


def coloured(stream: TextIO) -> bool:
    """Whether to use colours on this stream: only on a terminal, unless NO_COLOR is set or TERM is `dumb`."""
    environment = EnvSettingsSource(Settings).env_vars
    return stream.isatty() and not environment.get("no_color") and environment.get("term") not in (None, "dumb")
