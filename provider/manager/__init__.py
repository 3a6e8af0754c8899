"""
The link to the central manager: one outbound WebSocket, JSON messages, both sides speak state, not commands.

`messages.py` is the schema, `session.py` the protocol as a pure machine, `link.py` the shell that dials and carries it.
"""
