"""The command `doctor`: looks for what keeps pictures from coming, and says what to do about it.

Front door: `command.doctor`. Each module has checks of one kind (this machine, the upstream, a hosted endpoint, a
host's settings); `findings` runs them and shows what they found.

It costs nothing, changes nothing, and shows no more of a token than its end.
"""
