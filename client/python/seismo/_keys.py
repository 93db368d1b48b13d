"""The keys for a daemon on another machine, and what it means when they don't fit.

    SEISMO_SERVER_KEY_FILE   file of the daemon's public key (server.pub)
    SEISMO_KEY_FILE          file of the client's own secret key (NAME.key)
    SEISMO_SERVER_KEY, SEISMO_KEY   the keys themselves, where there is no file

Socket files (ipc://) are used without keys, whatever is set. No text from here holds a key.
"""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

import zmq

_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_MAX_FILE = 4096  # bytes

# Events of a socket's monitor; pyzmq has names for them only from some version on.
HANDSHAKE_BROKEN = 0x0800
HANDSHAKE_DONE = 0x1000
HANDSHAKE_PROTOCOL = 0x2000
HANDSHAKE_DENIED = 0x4000
EVENTS = HANDSHAKE_BROKEN | HANDSHAKE_DONE | HANDSHAKE_PROTOCOL | HANDSHAKE_DENIED
_MECHANISM_MISMATCH = 0x11000002


class Unusable(ValueError):
    """A key that cannot be used; the text says which and why."""


class Keys(NamedTuple):
    """What a connection needs, as Z85."""

    server: bytes
    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return "Keys(...)"  # whoever prints one gives nothing away

    def apply(self, socket: zmq.Socket) -> None:
        """Set them on a socket that is not connected yet."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret)


def find(
    endpoint: str,
    server_key_file: str | os.PathLike | None = None,
    key_file: str | os.PathLike | None = None,
) -> Keys | None:
    """The keys for this endpoint, from the files given or from the environment; None for none.

    Raises Unusable.
    """
    if not endpoint.startswith("tcp://"):
        return None
    server = _find_one(server_key_file, "SEISMO_SERVER_KEY", "public")
    secret = _find_one(key_file, "SEISMO_KEY", "secret")
    if server is None and secret is None:
        return None
    if server is None:
        raise Unusable(
            "there is a key of your own, but not the daemon's public key: set "
            "SEISMO_SERVER_KEY_FILE to a copy of its server.pub"
        )
    if secret is None:
        raise Unusable(
            "there is the daemon's public key, but no secret one of your own: set "
            "SEISMO_KEY_FILE (`seismo keygen DIR` makes one)"
        )
    try:
        return Keys(server.encode(), zmq.curve_public(secret.encode()), secret.encode())
    except (zmq.ZMQError, ValueError):
        raise Unusable(
            "the secret key is damaged, or this pyzmq was built without CURVE"
        ) from None


def _find_one(path: str | os.PathLike | None, variable: str, kind: str) -> str | None:
    path = path or os.environ.get(variable + "_FILE")
    if path:
        return _read(os.fspath(path), kind)
    key = os.environ.get(variable)
    if key and not _KEY.fullmatch(key):
        raise Unusable(f"${variable} is no key: one has 40 characters of Z85")
    return key or None


def _read(path: str, kind: str) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Unusable(f"the key file {path} is not a regular file")
            text = file.read(_MAX_FILE + 1)
    except OSError as error:
        if _KEY.fullmatch(path):  # it belongs in no error text
            raise Unusable(
                "a key stands where the name of a key file belongs; put it into a file"
            ) from None
        raise Unusable(f"cannot read the key file {path}: {error.strerror}") from None
    if len(text) > _MAX_FILE:
        raise Unusable(f"{path} is larger than {_MAX_FILE} bytes: it is no key file")
    found: dict[str, str] = {}
    for number, line in enumerate(text.decode("utf-8", "replace").split("\n"), 1):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not line.strip() or name.startswith("#"):
            continue
        if not equals or name not in ("public", "secret", "roles") or name in found:
            raise Unusable(f"{path}:{number}: a line that no key file has")
        found[name] = value
    if kind not in found and {"public", "secret"} & set(found):
        other, suffix = ("secret", "pub") if kind == "public" else ("public", "key")
        raise Unusable(
            f"{path}: this file holds a {other} key where a {kind} one belongs; give the file "
            f"NAME.{suffix}"
        )
    if not _KEY.fullmatch(found.get(kind, "")):
        raise Unusable(f"{path} holds no {kind} key; make one with `seismo keygen`")
    if kind == "secret" and status.st_mode & 0o037:
        raise Unusable(
            f"the secret key {path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}): "
            "chmod 600 it, and make a new one if they may have read it"
        )
    if status.st_mode & 0o002:
        raise Unusable(f"everybody may write the key file {path}: chmod o-w it")
    return found[kind]


def trouble(used: bool, endpoint: str, event: int, value: int) -> str | None:
    """What this event of a socket's monitor says about the keys, in words; None for nothing.

    After all of them but HANDSHAKE_BROKEN libzmq gives the endpoint up: disconnect it and connect
    it again to try once more.
    """
    if event == HANDSHAKE_DENIED:
        words = (
            "does not let this client in: its public key (NAME.pub) must be among the daemon's "
            "clients"
        )
    elif event not in (HANDSHAKE_BROKEN, HANDSHAKE_PROTOCOL):
        return None
    elif not used:
        words = (
            "broke off the handshake: it was stopping, asks for keys (SEISMO_SERVER_KEY_FILE and "
            "SEISMO_KEY_FILE), or is no seismod"
        )
    elif event == HANDSHAKE_PROTOCOL and value == _MECHANISM_MISMATCH:
        words = (
            "does not ask for keys, but SEISMO_SERVER_KEY_FILE or SEISMO_KEY_FILE gives some; "
            "unset them for this daemon"
        )
    else:
        words = (
            "broke off the handshake: it was stopping, the server key (SEISMO_SERVER_KEY_FILE) is "
            "not its own, or it does not ask for keys"
        )
    return f"the daemon at {endpoint} {words}"
