"""All settings, with their defaults and rules. `settings` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mcp_seedream.core import setting_rules
from mcp_seedream.core.credentials import clean_token
from mcp_seedream.core.paths import expand_path, strip_quotes

_LOCAL_HOSTS = ["127.0.0.1", "localhost", "[::1]"]


def _env(name: str, **more: Any) -> Any:
    return Field(validation_alias=AliasChoices(name), **more)


class Settings(BaseSettings):
    """All settings. The table in docs/hosting.md is generated from these fields. Times are in seconds."""

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True)

    token: SecretStr | None = _env(
        "ACEDATACLOUD_API_TOKEN", default=None, description="API token, over stdio; over HTTP each caller sends its own"
    )
    base_url: str = _env(
        "ACEDATACLOUD_API_BASE_URL", default="https://api.acedata.cloud", description="The upstream's address"
    )
    models_file: Path | None = _env(
        "SEEDREAM_MODELS_FILE", default=None, description="Model table to use instead of the built-in one"
    )
    wait_seconds: float = _env(
        "SEEDREAM_WAIT_SECONDS", default=45, ge=0, le=600, description="How long a call waits for its picture"
    )
    set_images: int = _env(
        "SEEDREAM_SET_IMAGES", default=4, ge=1, le=15, description="Pictures in a set, if the call has no number"
    )
    preview: Literal["on", "off"] | None = _env(
        "SEEDREAM_PREVIEW",
        default=None,
        description="on or off: show a thumbnail in results (on over stdio, except for some frameworks; off over HTTP)",
    )
    sandbox: bool = _env(
        "SEEDREAM_SANDBOX",
        default=False,
        description="true: drawn placeholders at no cost and without a token, as with `--sandbox`",
    )
    output_dir: Path | None = _env(
        "SEEDREAM_OUTPUT_DIR", default=None, description="Folder that every picture is saved to, over stdio"
    )
    journal: str | None = _env(
        "SEEDREAM_JOURNAL",
        default=None,
        description="File that records tasks over stdio, or off (default: in the user's state folder)",
    )
    allowed_dirs: Annotated[list[Path], NoDecode] = _env(
        "SEEDREAM_ALLOWED_DIRS",
        default=[],
        description="Folders that pictures may be read from over stdio, comma-separated (default: anywhere)",
    )
    image_hosts: Annotated[list[str], NoDecode] = _env(
        "SEEDREAM_IMAGE_HOSTS",
        default=["https://platform.cdn.acedata.cloud"],
        description="Origins that the gallery in the chat may load pictures from, comma-separated",
    )
    connect_timeout: float = _env(
        "SEEDREAM_CONNECT_TIMEOUT", default=10, gt=0, description="Time-out for connecting to the upstream, in seconds"
    )
    read_timeout: float = _env(
        "SEEDREAM_READ_TIMEOUT",
        default=60,
        gt=0,
        description="Time-out for the upstream to respond or accept data, in seconds",
    )
    stream_timeout: float = _env(
        "SEEDREAM_STREAM_TIMEOUT",
        default=300,
        gt=0,
        description="Time-out between two pictures of a streamed set, in seconds",
    )
    shutdown_seconds: float = _env(
        "SEEDREAM_SHUTDOWN_SECONDS",
        default=6,
        ge=0,
        description="How long calls may take to finish during a shutdown",
    )
    calls_at_once: int = _env(
        "SEEDREAM_CALLS_AT_ONCE", default=2000, ge=1, description="Concurrent requests of one caller"
    )
    all_calls_at_once: int = _env(
        "SEEDREAM_ALL_CALLS_AT_ONCE", default=10_000, ge=1, description="Concurrent requests of all callers"
    )
    generations_a_minute: int = _env(
        "SEEDREAM_GENERATIONS_A_MINUTE",
        default=0,
        ge=0,
        description="Generations of one caller per minute; 0: no limit",
    )
    check_seconds: float = _env(
        "SEEDREAM_CHECK_SECONDS",
        default=300,
        ge=0,
        description="How long a valid token is cached before it is checked again; 0: tokens are not checked",
    )
    connections: int = _env(
        "SEEDREAM_CONNECTIONS",
        default=100,
        ge=1,
        description="Maximum open connections to the upstream, for each kind of request",
    )
    allowed_hosts: Annotated[list[str], NoDecode] = _env(
        "SEEDREAM_ALLOWED_HOSTS",
        default=_LOCAL_HOSTS,
        description="Accepted `Host` headers over HTTP, comma-separated",
    )
    allowed_origins: Annotated[list[str], NoDecode] = _env(
        "SEEDREAM_ALLOWED_ORIGINS",
        default=[f"http://{host}" for host in _LOCAL_HOSTS],
        description="Accepted `Origin` headers over HTTP, comma-separated",
    )
    cors_origins: Annotated[list[str], NoDecode] = _env(
        "SEEDREAM_CORS_ORIGINS",
        default=[],
        description="Origins of web pages that may call the server (`https://NAME`, or `*`), comma-separated",
    )
    max_header_kib: int = _env(
        "SEEDREAM_MAX_HEADER_KIB", default=32, ge=1, description="Maximum size of an HTTP request's headers, in KiB"
    )
    max_body_mib: int = _env(
        "SEEDREAM_MAX_BODY_MIB",
        default=64,
        ge=1,
        description="Maximum size of an HTTP request, in MiB; base64 pictures are large",
    )
    all_bodies_mib: int = _env(
        "SEEDREAM_ALL_BODIES_MIB",
        default=160,
        ge=1,
        description="Maximum size of the bodies of all HTTP requests that a process holds, in MiB",
    )
    public_url: str | None = _env(
        "SEEDREAM_PUBLIC_URL",
        default=None,
        description="Public origin of this server, such as https://seedream.example.com; enables sign-in",
    )
    seal_keys: Annotated[list[SecretStr], NoDecode] = _env(
        "SEEDREAM_SEAL_KEYS",
        default=[],
        description="Secrets for tokens (`openssl rand -hex 32`), comma-separated: the first encrypts, all decrypt",
    )
    redis_url: SecretStr | None = _env(
        "SEEDREAM_REDIS_URL",
        default=None,
        description="State that several processes share, for sign-in and abandoned calls: redis://… or rediss://…",
    )
    access_seconds: int = _env(
        "SEEDREAM_ACCESS_SECONDS", default=3600, ge=1, description="Lifetime of an access token of sign-in"
    )
    refresh_seconds: int = _env(
        "SEEDREAM_REFRESH_SECONDS",
        default=2_592_000,
        ge=1,
        description="Lifetime of an unused sign-in",
    )
    vendor_client_id: str | None = _env(
        "SEEDREAM_VENDOR_CLIENT_ID",
        default=None,
        description="This server's OAuth client id at AceDataCloud: people sign in there instead of pasting a key",
    )
    vendor_auth_url: str = _env(
        "SEEDREAM_VENDOR_AUTH_URL", default="https://auth.acedata.cloud", description="Address of the vendor's sign-in"
    )
    vendor_platform_url: str = _env(
        "SEEDREAM_VENDOR_PLATFORM_URL",
        default="https://platform.acedata.cloud",
        description="Address of the vendor's platform, which issues API keys",
    )
    log_level: str = _env(
        "SEEDREAM_LOG_LEVEL",
        default="INFO",
        pattern="(?i)^(debug|info|warning|error)$",
        description="debug, info, warning or error",
    )
    log_format: Literal["text", "json"] = _env(
        "SEEDREAM_LOG_FORMAT", default="text", description="text, or json: one object per line"
    )
    otlp_endpoint: str | None = _env(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        default=None,
        description="OpenTelemetry collector for spans (needs the extra `otel`; other `OTEL_` variables apply too)",
    )
    workers: int = _env("WEB_CONCURRENCY", default=1, ge=1, description="Number of processes that serve HTTP")
    trusted_proxies: Annotated[list[str], NoDecode, AfterValidator(setting_rules.proxies)] = _env(
        "FORWARDED_ALLOW_IPS",
        default=["127.0.0.1", "::1"],
        description="Addresses and networks of proxies whose `X-Forwarded-For` is used, comma-separated, or `*`",
    )
    metrics_port: int | None = _env(
        "SEEDREAM_METRICS_PORT",
        default=None,
        ge=1,
        le=65535,
        description="Port that serves `/metrics`, and nothing else (default: the port of the server)",
    )
    metrics_dir: str | None = _env(
        "PROMETHEUS_MULTIPROC_DIR",
        default=None,
        description="Folder in which several processes share their metrics (default: a temporary one)",
    )

    @field_validator("output_dir", "models_file", "allowed_dirs", "metrics_dir", mode="before")
    @classmethod
    def _expand_paths(cls, value: Any) -> Any:
        # Validators run from the last to the first, so lists are already split.
        if isinstance(value, list):
            return [expand_path(str(each)) for each in value]
        return expand_path(value) if isinstance(value, str) else value

    @field_validator(
        *("allowed_hosts", "allowed_origins", "allowed_dirs", "image_hosts", "cors_origins", "seal_keys"),
        "trusted_proxies",
        mode="before",
    )
    @classmethod
    def _split_lists(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        text = strip_quotes(value) if info.field_name == "allowed_dirs" else value
        return [part.strip() for part in text.split(",") if part.strip()]

    @field_validator("image_hosts")
    @classmethod
    def _image_origins(cls, value: list[str]) -> list[str]:
        return [setting_rules.image_host(origin) for origin in value]

    @field_validator("token", mode="before")
    @classmethod
    def _bare_token(cls, value: Any) -> Any:
        return clean_token(value) or None if isinstance(value, str) else value

    @field_validator("journal")
    @classmethod
    def _journal_path(cls, value: str | None) -> str | None:
        text = strip_quotes(value or "")
        return text.lower() or None if text.lower() in ("", "off") else expand_path(text)

    @field_validator("public_url")
    @classmethod
    def _public_origin(cls, value: str | None) -> str | None:
        return setting_rules.public_origin(value or "")

    @field_validator("seal_keys")
    @classmethod
    def _check_seal_keys(cls, value: list[SecretStr]) -> list[SecretStr]:
        for key in value:
            setting_rules.check_seal_key(key.get_secret_value())
        return value

    @field_validator("vendor_client_id", "redis_url", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return value or None

    @field_validator("base_url", "vendor_auth_url", "vendor_platform_url")
    @classmethod
    def _http_url(cls, value: str) -> str:
        return setting_rules.api_address(value)

    @field_validator("preview", mode="before")
    @classmethod
    def _boolean_preview(cls, value: Any) -> Any:
        """Accept true and false, which clients' forms send for a switch."""
        return {"true": "on", "false": "off"}.get(str(value).lower(), value)

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any, info: ValidationInfo) -> Any:
        """Replace empty values by the default; an empty list stays a list."""
        field = cls.model_fields[str(info.field_name)]
        empty = isinstance(value, str) and setting_rules.is_left_empty(value)
        return field.get_default() if empty and (value.strip() or not isinstance(field.default, list)) else value


class ClaudeCode(BaseSettings):
    """The setting of Claude Code that names the folder of its settings, for `install`."""

    model_config = SettingsConfigDict(env_ignore_empty=True, defer_build=True)

    config_dir: Path | None = _env("CLAUDE_CONFIG_DIR", default=None)


HTTP_ONLY = frozenset({
    "public_url", "seal_keys", "redis_url", "access_seconds", "refresh_seconds", "workers", "metrics_dir",
    "allowed_hosts", "allowed_origins", "cors_origins", "calls_at_once", "all_calls_at_once", "check_seconds",
    "generations_a_minute", "max_header_kib", "max_body_mib", "all_bodies_mib", "trusted_proxies", "metrics_port",
    "vendor_client_id", "vendor_auth_url", "vendor_platform_url",
})  # fmt: skip
"""Settings that only the HTTP server uses."""
HARMLESS = frozenset({
    "wait_seconds", "set_images", "preview", "sandbox", "log_level", "log_format", "workers", "connect_timeout",
    "read_timeout", "stream_timeout", "shutdown_seconds", "connections", "calls_at_once", "all_calls_at_once",
    "generations_a_minute", "check_seconds", "max_header_kib", "max_body_mib", "all_bodies_mib", "access_seconds",
    "refresh_seconds", "allowed_hosts", "allowed_origins", "cors_origins", "metrics_port",
})  # fmt: skip
"""Settings that a `.env` may always set: they are not addresses, paths or secrets."""
ADDRESSES = frozenset({"base_url", "image_hosts", "otlp_endpoint", "vendor_auth_url", "vendor_platform_url"})
"""Settings that are addresses."""


def name_of(field: str) -> str:
    """The environment variable of a setting's field."""
    alias = Settings.model_fields[field].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else field
