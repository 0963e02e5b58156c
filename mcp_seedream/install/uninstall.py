"""The command `uninstall`: removes this server's entry from the settings of an MCP client."""

from __future__ import annotations

from collections.abc import Iterator

from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.install.clients import INPUT_VARIABLE, TOKEN, has_token
from mcp_seedream.install.json_positions import value_at
from mcp_seedream.install.jsonc import with_member, without_member
from mcp_seedream.install.settings_file import ConfigFile
from mcp_seedream.install.targets import EntryOptions, Target, backup_note, say, show, target_of
from mcp_seedream.install.vscode_inputs import refers_to_input, with_input, without_input


def uninstall(options: EntryOptions) -> int:
    """Remove the entry, or show the changes; returns the exit status, 0, even if there was no entry.

    Raises:
        ConfigurationError: As for `install`.
    """
    target = target_of(options)
    config, title = target.config, target.client.title
    new_text = _without_entry(config.text, target, without_our_input=refers_to_input(target.entry))
    if new_text == config.text:
        say(f'{title} has no "{options.name}" in {config.path}. Nothing was changed.')
        return 0
    earlier = _file_before_install(target, new_text)
    before = earlier.data if earlier else config.encoded(new_text)
    if options.dry_run:
        show(config, ConfigFile(config.path, before).text)
        return 0
    # A file that a backup restores needs no further backup, which would keep the token.
    backup = config.replace(before, keep=earlier is None)
    how = (
        " The file had no other content, and was deleted."
        if before is None
        else " The file has its previous content again."
        if earlier
        else ""
    )
    say(f'Removed "{options.name}" for {title} from {config.path}.{how}{backup_note(backup, target.entry)}')
    backups = [each.path for each in config.backups() if each.path != backup and _contains_token(each, target)]
    if backups:
        say(f"These backups still contain a token. Delete them if you don't need them: {', '.join(map(str, backups))}")
    say(f"If {title} is running, it uses the server until it is restarted.")
    return 0


def _without_entry(text: str, target: Target, *, without_our_input: bool) -> str:
    """The text without the entry, and without our input variable if the entry used it."""
    new_text = without_member(text, target.path)
    return without_input(new_text, target.client.inputs) if without_our_input and target.client.inputs else new_text


def _file_before_install(target: Target, new_text: str) -> ConfigFile | None:
    """The file before the entry was added, from a backup; None if other parts of it have changed since.

    Args:
        target: The file with the entry.
        new_text: The text without the entry, which may still have objects that were created for it.
    """
    config = target.config
    for earlier in (*config.backups(), ConfigFile(config.path, None)):
        try:
            if value_at(earlier.text, target.path) is None and new_text in _after_install_and_removal(
                earlier.text, target
            ):
                return earlier
        except (ValueError, ConfigurationError):
            continue  # the backup is of another file format
    return None


def _after_install_and_removal(text: str, target: Target) -> Iterator[str]:
    """Yield the text after an entry was added and removed: one with a token, and one with our input variable."""
    yield _without_entry(with_member(text, target.path, {}), target, without_our_input=False)
    if target.client.inputs:
        asking = with_input(with_member(text, target.path, {"env": {TOKEN: INPUT_VARIABLE}}), target.client.inputs)
        yield _without_entry(asking, target, without_our_input=True)


def _contains_token(backup: ConfigFile, target: Target) -> bool:
    try:
        return has_token(value_at(backup.text, target.path))
    except (ValueError, ConfigurationError):
        return False  # the backup is of another file format
