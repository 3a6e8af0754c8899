"""
The reference manager: the smallest program that speaks the native link from the other end (`bootwright manager`).

It is what the lab and the tests use, and what somebody reads who writes their own: `server.py` takes links from providers,
`state.py` keeps what they say and what is wanted (SQLite), `control.py` is the API behind the command line on a UNIX socket,
`client.py` its other end.
"""
