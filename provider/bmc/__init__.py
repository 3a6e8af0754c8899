"""
Power through BMCs: `base.py` says what a way to a BMC can do, `pool.py` gives one, `ipmi.py` is IPMI 2.0, `redfish.py` Redfish,
`either.py` finds out which of the two it is, `http_power.py` is the power API of Sidero's QEMU helpers.

BMCs are bad neighbours: slow, wrong, silent, and one of them must not delay another. Each has its own lock and each call its
own deadline.
"""
