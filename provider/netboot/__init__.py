"""
UDP shells of network boot: DHCP (67, 4011), TFTP (69), and router advertisements for iPXE.

Each owns its sockets and clock and asks the pure parts (`planning.offer`, `wire.tftp_transfer`) what to send.
"""
