"""The commands `install` and `uninstall`: this server's entry in the settings files of MCP clients.

Front door: `commands.install` and `uninstall.uninstall`; `clients.CLIENTS` describes each client and its files.

It changes only its own entry in a settings file, keeps a backup, and never writes a token into a file that no client
reads. It depends on `core` alone.
"""
