"""Reading apt's index and finding what a package needs."""

from __future__ import annotations

import pytest

from bootassets import packages
from provider.domain.errors import PermanentError

INDEX = """\
Package: python3
Version: 3.11.2-1+b1
Architecture: amd64
Pre-Depends: python3-minimal (= 3.11.2-1+b1)
Depends: python3.11 (>= 3.11.2-1~), libpython3-stdlib (= 3.11.2-1+b1), media-types | mime-support
Filename: pool/main/p/python3-defaults/python3_3.11.2-1+b1_amd64.deb
Size: 26300
SHA256: aa
Description: interactive high-level object-oriented language
 Depends: this is text, not a field

Package: python3.11
Version: 3.11.2-6
Architecture: amd64
Depends: libssl3 (>= 3.0.0) | libssl1.1, awk
Filename: pool/python3.11.deb
Size: 1
SHA256: bb

Package: libpython3-stdlib
Version: 1
Architecture: amd64
Depends: python3:any
Filename: pool/libpython3-stdlib.deb
Size: 1
SHA256: cc

Package: python3-minimal
Version: 1
Architecture: amd64
Filename: pool/python3-minimal.deb
Size: 1
SHA256: dd

Package: libssl3
Version: 3
Architecture: amd64
Filename: pool/libssl3.deb
Size: 1
SHA256: ee

Package: libssl3
Version: 4
Architecture: i386
Filename: pool/libssl3_i386.deb
Size: 1
SHA256: ff

Package: mawk
Version: 1
Architecture: amd64
Provides: awk
Filename: pool/mawk.deb
Size: 1
SHA256: 00

Package: media-types
Version: 1
Architecture: all
Filename: pool/media-types.deb
Size: 1
SHA256: 11
"""


def names(found: list[packages.Package]) -> list[str]:
    """Give the names alone."""
    return [package.name for package in found]


def test_closure_follows_alternatives_provides_and_circles() -> None:
    """Breaks if versions, `:any`, virtual packages or a circle upset the search."""
    index = packages.parse_index(INDEX, "amd64")
    found = names(packages.closure(index, ["python3"], ()))
    assert found == [
        "libpython3-stdlib", "libssl3", "mawk", "media-types", "python3", "python3-minimal", "python3.11"
    ]  # fmt: skip


def test_what_is_not_followed_is_not_taken() -> None:
    """Breaks if an installation helper comes along, or its second alternative is taken in its place."""
    index = packages.parse_index(INDEX, "amd64")
    found = names(packages.closure(index, ["python3"], {"media-types", "python3-minimal"}))
    assert "media-types" not in found
    assert "python3-minimal" not in found


def test_other_architectures_are_left_out() -> None:
    """Breaks if a host with a foreign architecture puts 32-bit libraries into the image."""
    assert packages.parse_index(INDEX, "amd64").packages["libssl3"].version == "3"


def test_unknown_package_says_what_to_do() -> None:
    """Breaks if a missing package ends in a KeyError instead of advice."""
    index = packages.parse_index(INDEX, "amd64")
    with pytest.raises(PermanentError, match="apt knows no package linux-image-amd64") as caught:
        packages.closure(index, ["linux-image-amd64"], ())
    assert "sources.list" in caught.value.hint


def test_file_name_and_checksum_come_from_the_index() -> None:
    """Breaks if a cached .deb is looked for under another name than it is stored."""
    package = packages.parse_index(INDEX, "amd64").packages["python3"]
    assert package.file_name == "python3_3.11.2-1+b1_amd64.deb"
    assert package.sha256 == "aa"
    assert package.depends[0] == ("python3-minimal",)
    assert ("media-types", "mime-support") in package.depends
