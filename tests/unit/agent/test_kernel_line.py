"""Our arguments on the kernel command line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.agent import kernel_line
from provider.domain.errors import PermanentError

CA = "ab" * 32
LINE = (
    "initrd=initramfs.zst console=ttyS0 bootwright.url=https://10.77.0.1:8443/ bootwright.boot_url=http://10.77.0.1:8080 "
    f"bootwright.ca={CA.upper()} bootwright.ticket=t-1 bootwright.mac=52-54-00-AA-BB-CC panic=1\n"
)


def test_whole_line() -> None:
    """Breaks if spelling (upper case, dashes, a trailing slash) makes a difference further on."""
    found = kernel_line.parse(LINE)
    assert found.url == "https://10.77.0.1:8443"
    assert found.boot_url == "http://10.77.0.1:8080"
    assert found.ca == CA
    assert found.ticket == "t-1"
    assert found.mac == "52:54:00:aa:bb:cc"


@pytest.mark.parametrize("name", ["url", "boot_url", "ca", "ticket", "mac"])
def test_missing_argument_is_named(name: str) -> None:
    """Breaks if a person at the screen is not told what the boot script forgot."""
    line = " ".join(word for word in LINE.split() if not word.startswith(f"bootwright.{name}="))
    with pytest.raises(PermanentError, match=rf"bootwright\.{name}"):
        kernel_line.parse(line)


@pytest.mark.parametrize(
    ("old", "new"),
    [("https://", "http://"), (CA.upper(), "abcd"), ("52-54-00-AA-BB-CC", "52-54"), ("http://10", "ftp://10")],
)
def test_nonsense_is_refused(old: str, new: str) -> None:
    """Breaks if the agent goes on with a plain URL or without a fingerprint, or dies with a traceback."""
    with pytest.raises(PermanentError):
        kernel_line.parse(LINE.replace(old, new))


def test_last_one_counts() -> None:
    """Breaks if an argument appended by hand at the boot prompt does not win, as it does for the kernel."""
    assert kernel_line.parse(f"{LINE} bootwright.ticket=t-2").ticket == "t-2"


@given(st.text())
def test_any_line(line: str) -> None:
    """Breaks if a strange command line (a lone quote) is more than a PermanentError."""
    with contextlib.suppress(PermanentError):
        kernel_line.parse(line)


def test_quotes_are_those_of_the_kernel() -> None:
    """Breaks if a value with blanks is torn, or an apostrophe, which means nothing to the kernel, upsets us."""
    found = kernel_line.options('a="two words" dyndbg="file x" \'b=it\'s c="open')
    assert found == {"a": "two words", "dyndbg": "file x", "'b": "it's", "c": "open"}
