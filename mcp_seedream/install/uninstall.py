"""The command `uninstall`: takes this server's entry out of the settings of an MCP client, and what came with it."""

from __future__ import annotations

from collections.abc import Iterator

from mcp_seedream.core.errors import ConfigurationError
from mcp_seedream.install.clients import ASKED, TOKEN, has_token
from mcp_seedream.install.json_positions import value_at
from mcp_seedream.install.jsonc import with_member, without_member
from mcp_seedream.install.settings_file import ConfigFile
from mcp_seedream.install.targets import EntryOptions, Target, kept, say, show, target_of
from mcp_seedream.install.vscode_inputs import asks_for_ours, with_question, without_question


def uninstall(options: EntryOptions) -> int:
    """Take the entry out, or show what would be; 0 if it is gone, and if there was none.

    Raises:
        ConfigurationError: As for `install`.
    """
    target = target_of(options)
    config, title = target.config, target.client.title
    cut = _cut(config.text, target, asked=asks_for_ours(target.entry))
    if cut == config.text:
        say(f'{title} has no "{options.name}" in {config.path}. Nothing was changed.')
        return 0
    earlier = _earlier(target, cut)
    before = earlier.data if earlier else config.encoded(cut)
    if options.dry_run:
        show(config, ConfigFile(config.path, before).text)
        return 0
    # What can be had anew needs no backup, which would keep the token; a text that was cut gets one.
    backup = config.replaced(before, keep=earlier is None)
    how = " It held nothing else, and is gone." if before is None else " It is as it was before." if earlier else ""
    say(f'Removed "{options.name}" for {title} from {config.path}.{how}{kept(backup, target.entry)}')
    left = [each.path for each in config.backups() if each.path != backup and _holds_token(each, target)]
    if left:
        say(f"These still hold a token; delete them when you need them no more: {', '.join(map(str, left))}")
    say(f"If {title} is running, it goes on with the server until it is restarted.")
    return 0


def _cut(text: str, target: Target, *, asked: bool) -> str:
    """Without the entry, and without our question, if the entry was what had the client ask it."""
    cut = without_member(text, target.path)
    return without_question(cut, target.client.asks) if asked and target.client.asks else cut


def _earlier(target: Target, cut: str) -> ConfigFile | None:
    """The file from before it had the entry, if nothing else has changed since: to the byte, as a backup has it.

    Args:
        target: The file with the entry.
        cut: The text without it, which still has whatever was made for it.
    """
    config = target.config
    for earlier in (*config.backups(), ConfigFile(config.path, None)):
        try:
            if value_at(earlier.text, target.path) is None and cut in _made_and_cut(earlier.text, target):
                return earlier
        except (ValueError, ConfigurationError):
            continue  # a backup of something else
    return None


def _made_and_cut(text: str, target: Target) -> Iterator[str]:
    """What is left of a text once there was an entry in it: one with its token, or one for which the client asks."""
    yield _cut(with_member(text, target.path, {}), target, asked=False)
    if target.client.asks:
        asking = with_question(with_member(text, target.path, {"env": {TOKEN: ASKED}}), target.client.asks)
        yield _cut(asking, target, asked=True)


def _holds_token(backup: ConfigFile, target: Target) -> bool:
    try:
        return has_token(value_at(backup.text, target.path))
    except (ValueError, ConfigurationError):
        return False  # a backup of something else
