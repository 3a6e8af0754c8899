"""
HTTP shells, each with a trust of its own and a socket of its own: `boot.py` (none: boot files and scripts), `agents.py`
(ticket, then token; TLS), `operators.py` (file permissions of a UNIX socket). `listener.py` binds and serves them.
"""
