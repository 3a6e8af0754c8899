"""
Power through BMCs: `base.py` says what a way to a BMC can do and gives one, `ipmi.py` is IPMI 2.0,
`http_power.py` the power API of Sidero's QEMU helpers.

BMCs are bad neighbours: slow, wrong, silent, and one of them must not delay another. Each has its own lock and each call its
own deadline.
"""
