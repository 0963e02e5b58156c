"""Which settings there are, with their defaults and rules. `settings` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mcp_seedream.core import setting_rules
from mcp_seedream.core.credentials import clean_token
from mcp_seedream.core.paths import expanded, unquoted

_LOCAL_HOSTS = ["127.0.0.1", "localhost", "[::1]"]


def _env(name: str, **more: Any) -> Any:
    return Field(validation_alias=AliasChoices(name), **more)


class Settings(BaseSettings):
    """The settings; the documents' table is made from these fields. Times are in seconds, sizes as named."""

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True)

    token: SecretStr | None = _env(
        "ACEDATACLOUD_API_TOKEN", default=None, description="API token, over stdio; over HTTP callers bring their own"
    )
    base_url: str = _env(
        "ACEDATACLOUD_API_BASE_URL", default="https://api.acedata.cloud", description="The upstream's address"
    )
    models_file: Path | None = _env(
        "SEEDREAM_MODELS_FILE", default=None, description="Another capability table than the built-in one"
    )
    wait_seconds: float = _env(
        "SEEDREAM_WAIT_SECONDS", default=45, ge=0, le=600, description="How long a call waits for its picture"
    )
    set_images: int = _env(
        "SEEDREAM_SET_IMAGES", default=4, ge=1, le=15, description="Pictures of a set whose size the call leaves open"
    )
    preview: Literal["on", "off"] | None = _env(
        "SEEDREAM_PREVIEW",
        default=None,
        description="on or off: show a thumbnail in results (on over stdio, except for some frameworks; off over HTTP)",
    )
    sandbox: bool = _env(
        "SEEDREAM_SANDBOX",
        default=False,
        description="true: drawn placeholders at no cost, as with `--sandbox`, which needs no token",
    )
    output_dir: Path | None = _env(
        "SEEDREAM_OUTPUT_DIR", default=None, description="Folder every picture is saved to, over stdio"
    )
    journal: str | None = _env(
        "SEEDREAM_JOURNAL",
        default=None,
        description="File that tasks are written down in over stdio, or off (in the user's state folder, unless set)",
    )
    allowed_dirs: Annotated[list[Path], NoDecode] = _env(
        "SEEDREAM_ALLOWED_DIRS",
        default=[],
        description="Folders pictures may be read from over stdio, comma-separated (anywhere, unless set)",
    )
    image_hosts: Annotated[list[str], NoDecode] = _env(
        "SEEDREAM_IMAGE_HOSTS",
        default=["https://platform.cdn.acedata.cloud"],
        description="Where pictures come from: the gallery in the chat may load them from there, comma-separated",
    )
    connect_timeout: float = _env(
        "SEEDREAM_CONNECT_TIMEOUT", default=10, gt=0, description="To connect to the upstream, in seconds"
    )
    read_timeout: float = _env(
        "SEEDREAM_READ_TIMEOUT", default=60, gt=0, description="For the upstream to answer, or to take data, in seconds"
    )
    stream_timeout: float = _env(
        "SEEDREAM_STREAM_TIMEOUT", default=300, gt=0, description="Between two pictures of a streamed set, in seconds"
    )
    shutdown_seconds: float = _env(
        "SEEDREAM_SHUTDOWN_SECONDS",
        default=6,
        ge=0,
        description="For calls to be answered in, once the server is told to stop",
    )
    calls_at_once: int = _env(
        "SEEDREAM_CALLS_AT_ONCE", default=2000, ge=1, description="Requests of one caller that are answered at once"
    )
    all_calls_at_once: int = _env(
        "SEEDREAM_ALL_CALLS_AT_ONCE", default=10_000, ge=1, description="Requests of all callers, likewise"
    )
    generations_a_minute: int = _env(
        "SEEDREAM_GENERATIONS_A_MINUTE",
        default=0,
        ge=0,
        description="Generations of one caller in any minute; 0: as many as the upstream takes",
    )
    check_seconds: float = _env(
        "SEEDREAM_CHECK_SECONDS",
        default=300,
        ge=0,
        description="For which a caller's token is believed, once the upstream knew it; 0: it is not checked",
    )
    connections: int = _env(
        "SEEDREAM_CONNECTIONS",
        default=100,
        ge=1,
        description="Connections to the upstream at once, at most, for each kind of request",
    )
    allowed_hosts: Annotated[list[str], NoDecode] = _env(
        "SEEDREAM_ALLOWED_HOSTS",
        default=_LOCAL_HOSTS,
        description="Host names this server answers to over HTTP, comma-separated",
    )
    allowed_origins: Annotated[list[str], NoDecode] = _env(
        "SEEDREAM_ALLOWED_ORIGINS",
        default=[f"http://{host}" for host in _LOCAL_HOSTS],
        description="`Origin` headers it accepts over HTTP, comma-separated",
    )
    cors_origins: Annotated[list[str], NoDecode] = _env(
        "SEEDREAM_CORS_ORIGINS",
        default=[],
        description="Web pages that may call it from a browser (`https://NAME`, or `*`), comma-separated",
    )
    max_header_kib: int = _env(
        "SEEDREAM_MAX_HEADER_KIB", default=32, ge=1, description="All headers of an HTTP request, in KiB"
    )
    max_body_mib: int = _env(
        "SEEDREAM_MAX_BODY_MIB", default=64, ge=1, description="Largest HTTP request, in MiB: base64 pictures are large"
    )
    public_url: str | None = _env(
        "SEEDREAM_PUBLIC_URL",
        default=None,
        description="Origin this server is reached at, such as https://seedream.example.com: turns sign-in on",
    )
    seal_keys: Annotated[list[SecretStr], NoDecode] = _env(
        "SEEDREAM_SEAL_KEYS",
        default=[],
        description="Secrets for tokens (`openssl rand -hex 32` makes one), comma-separated: the first seals, all open",
    )
    redis_url: SecretStr | None = _env(
        "SEEDREAM_REDIS_URL",
        default=None,
        description="What several processes share, for sign-in and for calls that were left: redis://… or rediss://…",
    )
    access_seconds: int = _env(
        "SEEDREAM_ACCESS_SECONDS", default=3600, ge=1, description="How long an access token of sign-in is good"
    )
    refresh_seconds: int = _env(
        "SEEDREAM_REFRESH_SECONDS",
        default=2_592_000,
        ge=1,
        description="How long a sign-in lasts that is not used",
    )
    vendor_client_id: str | None = _env(
        "SEEDREAM_VENDOR_CLIENT_ID",
        default=None,
        description="This server's client id at AceDataCloud, for signing in there instead of pasting a key",
    )
    vendor_auth_url: str = _env(
        "SEEDREAM_VENDOR_AUTH_URL", default="https://auth.acedata.cloud", description="The vendor's sign-in"
    )
    vendor_platform_url: str = _env(
        "SEEDREAM_VENDOR_PLATFORM_URL",
        default="https://platform.acedata.cloud",
        description="Where the vendor keeps people's keys",
    )
    log_level: str = _env(
        "SEEDREAM_LOG_LEVEL",
        default="INFO",
        pattern="(?i)^(debug|info|warning|error)$",
        description="debug, info, warning or error",
    )
    log_format: Literal["text", "json"] = _env(
        "SEEDREAM_LOG_FORMAT", default="text", description="text for people, or json: one object a line"
    )
    otlp_endpoint: str | None = _env(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        default=None,
        description="Collector that spans are sent to (install `.[otel]` for it; other `OTEL_` variables hold, too)",
    )
    workers: int = _env("WEB_CONCURRENCY", default=1, ge=1, description="Processes that serve over HTTP")
    metrics_dir: str | None = _env(
        "PROMETHEUS_MULTIPROC_DIR",
        default=None,
        description="Folder in which several processes of one server share their figures (a temporary one, unless set)",
    )

    @field_validator("output_dir", "models_file", "allowed_dirs", "metrics_dir", mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        # Validators run from the last to the first, so a list is split by now.
        if isinstance(value, list):
            return [expanded(str(each)) for each in value]
        return expanded(value) if isinstance(value, str) else value

    @field_validator(
        "allowed_hosts", "allowed_origins", "allowed_dirs", "image_hosts", "cors_origins", "seal_keys", mode="before"
    )
    @classmethod
    def _comma_separated(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        text = unquoted(value) if info.field_name == "allowed_dirs" else value
        return [part.strip() for part in text.split(",") if part.strip()]

    @field_validator("image_hosts")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        return [setting_rules.image_host(origin) for origin in value]

    @field_validator("token", mode="before")
    @classmethod
    def _bare_token(cls, value: Any) -> Any:
        return clean_token(value) or None if isinstance(value, str) else value

    @field_validator("journal")
    @classmethod
    def _off_or_path(cls, value: str | None) -> str | None:
        text = unquoted(value or "")
        return text.lower() or None if text.lower() in ("", "off") else expanded(text)

    @field_validator("public_url")
    @classmethod
    def _origin(cls, value: str | None) -> str | None:
        return setting_rules.public_origin(value or "")

    @field_validator("seal_keys")
    @classmethod
    def _unguessable(cls, value: list[SecretStr]) -> list[SecretStr]:
        for key in value:
            setting_rules.check_seal_key(key.get_secret_value())
        return value

    @field_validator("vendor_client_id", "redis_url", mode="before")
    @classmethod
    def _nothing(cls, value: Any) -> Any:
        return value or None

    @field_validator("base_url", "vendor_auth_url", "vendor_platform_url")
    @classmethod
    def _http_url(cls, value: str) -> str:
        return setting_rules.address_of_tokens(value)

    @field_validator("preview", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        """A switch in a client's form comes as true or false."""
        return {"true": "on", "false": "off"}.get(str(value).lower(), value)

    @field_validator("*", mode="before")
    @classmethod
    def _left_empty(cls, value: Any, info: ValidationInfo) -> Any:
        """A value that was left empty is the default; an empty list is a list."""
        field = cls.model_fields[str(info.field_name)]
        empty = isinstance(value, str) and setting_rules.is_left_empty(value)
        return field.get_default() if empty and (value.strip() or not isinstance(field.default, list)) else value


class ClaudeCode(BaseSettings):
    """What another program's variable says: `install` has to look where Claude Code does."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    config_dir: Path | None = _env("CLAUDE_CONFIG_DIR", default=None)


HTTP_ONLY = frozenset(
    {
        *("public_url", "seal_keys", "redis_url", "access_seconds", "refresh_seconds", "workers", "metrics_dir"),
        *("allowed_hosts", "allowed_origins", "cors_origins", "calls_at_once", "all_calls_at_once", "check_seconds"),
        *("generations_a_minute", "max_header_kib", "max_body_mib"),
        *("vendor_client_id", "vendor_auth_url", "vendor_platform_url"),
    }
)
"""Settings that only a server over HTTP has a use for."""
HARMLESS = frozenset(
    {
        *("wait_seconds", "set_images", "preview", "sandbox", "log_level", "log_format", "workers"),
        *("connect_timeout", "read_timeout", "stream_timeout", "shutdown_seconds", "connections"),
        *("calls_at_once", "all_calls_at_once", "generations_a_minute", "check_seconds"),
        *("max_header_kib", "max_body_mib", "access_seconds", "refresh_seconds"),
        *("allowed_hosts", "allowed_origins", "cors_origins"),
    }
)
"""Settings that a `.env` may always give: they send nothing elsewhere, and name no file, folder or secret."""
ADDRESSES = frozenset({"base_url", "image_hosts", "otlp_endpoint", "vendor_auth_url", "vendor_platform_url"})
"""Settings that say where something is sent or loaded from."""


def name_of(field: str) -> str:
    """The name of a setting in the environment, by its field's."""
    alias = Settings.model_fields[field].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else field
