"""A far side that loses answers: a server with a record of its own, and the plugins by which a daemon reaches it.

`server.py` is a program: it starts jobs by name, keeps a registry of champions and takes messages, and loses answers on purpose.
`plugins.py` has the launcher `farside`, its variant `farside-blind` that cannot search, a promoter and a notifier.
`house.py` starts the program, and installs the plugins for a daemon in another process, as a stranger's would be.
"""
