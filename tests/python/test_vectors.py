"""The golden messages of proto/vectors, as a client makes and hears them."""
import json
import math
import struct

import pytest
from conftest import ROOT
from seismo import _protocol as protocol
from seismo import _wire

VECTORS = json.loads((ROOT / "proto" / "vectors" / "vectors.json").read_text(encoding="utf-8"))
MADE = [v for v in VECTORS if v["from"] == "client" and v.get("canonical")]
HEARD = [v for v in VECTORS if v["from"] == "daemon"]


def names(vectors):
    return [v["name"] for v in vectors]


def number(value):
    return float(value) if isinstance(value, str) else value


def encode(vector):
    message = dict(vector["message"])
    kind = message.pop("type")
    if kind == "HELLO":
        message["session"] = bytes.fromhex(message["session"])
        return _wire.hello(**message)
    if kind == "STEPS":
        rows = []
        for row in message["rows"]:
            values = [number(row.get(name)) for name in vector["fields"]]
            # Measurements are floats in the client, whatever they look like in JSON.
            rows.append(
                [
                    value if value is None or name == "step" else float(value)
                    for name, value in zip(vector["fields"], values)
                ]
            )
        return _wire.steps(message["batch"], rows)
    if kind == "BYE":
        return _wire.bye(message["batch"], message["outcome"], message["text"])
    assert kind == "QUERY", kind
    return _wire.query(message["id"], message["method"], message["params"])


@pytest.mark.parametrize("vector", MADE, ids=names(MADE))
def test_encode(vector):
    assert encode(vector).hex() == vector["hex"]


@pytest.mark.parametrize("vector", HEARD, ids=names(HEARD))
def test_decode(vector):
    data = bytes.fromhex(vector["hex"])
    if "error" in vector:
        with pytest.raises(_wire.Malformed):
            _wire.decode(data)
        return
    kind, message = _wire.decode(data)
    wanted = dict(vector["message"])
    assert kind == getattr(protocol, wanted.pop("type"))
    assert message == wanted
    for n in range(len(data)):
        with pytest.raises(_wire.Malformed):
            _wire.decode(data[:n])


def test_there_are_vectors_of_every_kind():
    assert {v["message"]["type"] for v in MADE} == {"HELLO", "STEPS", "BYE", "QUERY"}
    heard = {v["message"]["type"] for v in HEARD if "message" in v}
    assert heard == {"WELCOME", "ACK", "ERROR", "REPLY", "PING"}
    assert sum("error" in v for v in HEARD) > 20


def test_oversized_message_is_refused():
    with pytest.raises(_wire.Malformed, match="1048577 bytes"):
        _wire.decode(b"\x91\x15" + bytes(protocol.MAX_MESSAGE - 1))


def test_float32_of_the_trace_is_that_of_c():
    """`number_text` rounds once, as a C cast does, and reads back to the same bits."""
    from seismo.trace import number_text

    for value in (0.1, 1 / 3, 1e-45, 1e-46, 3.4028235e38, 16777217.0, -0.0, 1.0000000596046449):
        single = struct.unpack("<f", struct.pack("<f", value))[0]
        text = number_text(value)
        assert struct.pack("<f", float(text)) == struct.pack("<f", single)
        assert len(text) <= 16
    assert number_text(1e39) == '"inf"' and number_text(-1e39) == '"-inf"'
    assert number_text(math.nan) == '"nan"'
