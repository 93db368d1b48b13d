"""Messages of the wire protocol (proto/PROTOCOL.md): what a client sends and what it hears.

A message is one msgpack array. Encoders return bytes; `decode` checks everything a daemon says
before anybody acts on it, and raises Malformed for what is not exactly a message.
"""

from __future__ import annotations

from typing import Any, Sequence

import msgpack

from seismo._protocol import ACK, BYE, ERROR, HELLO, MAX_MESSAGE, PING, PROTOCOL_VERSION
from seismo._protocol import QUERY, REPLY, STEPS, WELCOME

_MAX_INTEGER = (1 << 63) - 1


class Malformed(ValueError):
    """What came is no message of this protocol."""


def hello(
    run: str,
    program: str,
    session: bytes,
    rank: int,
    world: int,
    fields: Sequence[str],
    meta: str,
    version: int = PROTOCOL_VERSION,
    next: int | None = None,
) -> bytes:
    """HELLO; `session` 1 to 64 random bytes, `meta` a JSON object as text, `next` the batch
    that will be sent first."""
    about = {
        "version": version,
        "run": run,
        "program": program,
        "session": session,
        "rank": rank,
        "world": world,
        "fields": list(fields),
        "meta": meta,
    }
    if next is not None:
        about["next"] = next
    return msgpack.packb([HELLO, about])


def steps(batch: int, rows: Sequence[Sequence[Any]]) -> bytes:
    """STEPS; a row is the values of HELLO's fields in order, None where absent."""
    return msgpack.packb([STEPS, batch, rows])


# One row of a STEPS message, from its values. packb makes a packer with a megabyte of buffer for
# every call, in the training's time. The one in C packs a row before another thread has its turn,
# so that all may share it; the one in Python does not.
row = msgpack.packb if msgpack.Packer.__module__ == "msgpack.fallback" else msgpack.Packer().pack


def steps_of(batch: int, count: int, rows: bytes) -> bytes:
    """STEPS of rows that are encoded already, one behind the other."""
    head = msgpack.Packer().pack_array_header(count)
    return b"\x93" + msgpack.packb(STEPS) + msgpack.packb(batch) + head + rows


def split_steps(message: bytes) -> tuple[int, bytes]:
    """The number of rows of a STEPS message, and the rows as they are encoded."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(message)
    unpacker.read_array_header()
    unpacker.skip()
    unpacker.skip()
    count = unpacker.read_array_header()
    return count, message[unpacker.tell():]


def bye(batch: int, outcome: str, text: str = "") -> bytes:
    """BYE; takes a batch number of its own."""
    return msgpack.packb([BYE, batch, outcome, text])


def query(number: int, method: str, params: str = "{}") -> bytes:
    """QUERY; `params` is a JSON object as text."""
    return msgpack.packb([QUERY, number, method, params])


def _unique(pairs: list[tuple[Any, Any]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a key stands twice in a map")
    return found


def _no_extension(code: int, _: bytes) -> Any:
    raise Malformed(f"extension type {code} is not part of the protocol")


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise Malformed(what)


def _count(value: Any, what: str, least: int = 0) -> int:
    _need(
        type(value) is int and least <= value <= _MAX_INTEGER,
        f"{what} must be an integer >= {least}",
    )
    return value


def _text(value: Any, what: str, least: int = 0) -> str:
    _need(type(value) is str and len(value) >= least, f"{what} must be a text")
    return value


def _last_step(value: Any) -> int | None:
    return None if value is None else _count(value, "last_step")


def _welcome(about: Any) -> dict[str, Any]:
    _need(type(about) is dict, "WELCOME must hold a map")
    version = _count(about.get("version"), "version")
    if version != PROTOCOL_VERSION:
        raise Malformed(
            f"the daemon speaks protocol version {version}, this client {PROTOCOL_VERSION}"
        )
    return {
        "version": version,
        "run": _text(about.get("run"), "run", 1),
        "last_batch": _count(about.get("last_batch"), "last_batch"),
        "last_step": _last_step(about.get("last_step")),
        "max_rows": _count(about.get("max_rows"), "max_rows", 1),
        "max_bytes": _count(about.get("max_bytes"), "max_bytes", 1),
        "max_unacked": _count(about.get("max_unacked"), "max_unacked", 1),
        "probe_every": _count(about.get("probe_every"), "probe_every"),
    }


def _ack(batch: Any, last_step: Any, verdicts: Any) -> dict[str, Any]:
    _need(type(verdicts) is list, "ACK's verdicts must be a list")
    return {
        "batch": _count(batch, "batch"),
        "last_step": _last_step(last_step),
        "verdicts": [_text(verdict, "a verdict") for verdict in verdicts],
    }


def _error(code: Any, text: Any, hint: Any, ref: Any) -> dict[str, Any]:
    return {
        "code": _text(code, "code", 1),
        "text": _text(text, "text"),
        "hint": _text(hint, "hint"),
        "ref": None if ref is None else _count(ref, "ref"),
    }


def _reply(number: Any, body: Any) -> dict[str, Any]:
    return {"id": _count(number, "id"), "body": _text(body, "body")}


_FORMS = {
    WELCOME: (1, _welcome),
    ACK: (3, _ack),
    ERROR: (4, _error),
    REPLY: (2, _reply),
    PING: (0, dict),
}


def decode(data: bytes) -> tuple[int, dict[str, Any]]:
    """(message type, its parts by name) of a daemon's message; raises Malformed."""
    _need(len(data) <= MAX_MESSAGE, f"a message has {len(data)} bytes, {MAX_MESSAGE} are allowed")
    try:
        message = msgpack.unpackb(
            data, raw=False, strict_map_key=True, object_pairs_hook=_unique, ext_hook=_no_extension
        )
    except Malformed:
        raise
    except Exception as error:  # noqa: BLE001 -- msgpack raises half a dozen kinds
        raise Malformed(f"not one msgpack value: {error!r}") from None
    _need(type(message) is list and len(message) > 0, "a message must be an array with a type")
    kind, parts = message[0], message[1:]
    form = _FORMS.get(kind) if type(kind) is int else None
    what = kind if type(kind) is int else type(kind).__name__  # never a text of hostile depth
    _need(form is not None, f"a daemon sends no message of type {what}")
    length, read = form
    _need(len(parts) == length, f"message type {kind} has {length} parts, not {len(parts)}")
    return kind, read(*parts)
