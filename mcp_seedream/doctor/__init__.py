"""The command `doctor`: finds out why no pictures come, and says what to do.

Front door: `command.doctor`. Each `*_checks` module checks one thing (this machine, the upstream, a hosted endpoint,
the settings of a hosted server); `findings` runs the checks and prints their results.

The checks cost nothing and change nothing. Of a token, at most the last characters are printed.
"""
