"""Bootwright: a bare-metal infrastructure provider. `daemon.py` is where everything is put together."""
