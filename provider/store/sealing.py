"""Secrets at rest: sealed with a key that lies in a file of its own, never in the database."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from provider.domain.errors import PermanentError
from provider.domain.secret import Secret


class Sealer:
    """Seals with AES-128-CBC and HMAC-SHA256 (the Fernet format of the `cryptography` library)."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)

    @classmethod
    def open(cls, path: Path) -> Sealer:
        """
        Read the key, or make it at the first start (mode 0600).

        Raises:
            PermanentError: If the file is there but holds no key.
        """
        try:
            return cls(path.read_bytes().strip())
        except FileNotFoundError:
            return cls(_make_key(path))
        except ValueError as error:
            raise PermanentError(
                f"{path} holds no key: {error}", hint="restore it from a backup; without it sealed passwords are lost"
            ) from error

    def seal(self, secret: Secret) -> bytes:
        """Encrypt for the database."""
        return self._fernet.encrypt(secret.reveal().encode())

    def unseal(self, sealed: bytes) -> Secret:
        """
        Decrypt what `seal` made.

        Raises:
            PermanentError: If it was sealed with another key.
        """
        try:
            return Secret(self._fernet.decrypt(sealed).decode())
        except InvalidToken as error:
            raise PermanentError(
                "a stored password was sealed with another key",
                hint="restore secret.key beside the database, or remove the database and start again",
            ) from error


def _make_key(path: Path) -> bytes:
    """Write the key whole or not at all: a crash leaves a stray temporary file, never half a key."""
    key = Fernet.generate_key()
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    return key
