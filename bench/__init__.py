"""
Speed, side by side: Bootwright and what others wrote, measured by the same load in one run. No part of the product.

`./dev bench NAME` installs the peers and starts `python -m bench NAME`. Every server is a process of its own with an ordinary
configuration file, on one end of a cable; the load is in a network namespace at the other end, and made by programs that
others wrote where there are any. Servers run one after the other, on CPUs of their own where there are enough of them.
"""
