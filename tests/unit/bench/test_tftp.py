"""What is compared with what in the TFTP bench."""

from __future__ import annotations

from bench import tftp


def test_target_is_the_better_peer() -> None:
    """We are compared with the slower of two peers, or a window of ours with another's."""
    own = {1: 100.0, 4: 200.0, 8: 290.0}
    peers = {"dnsmasq": {1: 50.0, 4: 60.0, 8: 60.0}, "atftpd": {1: 40.0, 4: 210.0, 8: 250.0}}
    rows = tftp.compare(own, peers)
    judged = {(row.what, row.peer): row.met for row in rows if row.met is not None}
    assert judged == {
        ("MB/s, windowsize 1", "dnsmasq"): True,
        ("MB/s, windowsize 4", "atftpd"): False,
        ("MB/s, windowsize 8", "atftpd"): True,
        ("MB/s, windowsize 8 against 1", "ours"): False,
    }
    assert len(rows) == 7
