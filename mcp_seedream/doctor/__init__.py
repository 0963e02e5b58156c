"""The command `doctor`: finds out why pictures can't be made, and gives advice.

Front door: `command.doctor`. `machine` checks this machine, and each `*_checks` module one other subject: the upstream,
a hosted endpoint, the settings of a hosted server, recent refusals. `findings` runs the checks and formats results.

The checks are free and change nothing. At most the last four characters of a token are printed.
"""
