"""A database is as large as README.md says that it gets, whatever the shape of what lies in it."""
import pathlib
import random
import sqlite3
import sys

import pytest
from peer import Peer
from seismo import _protocol as protocol

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import size  # noqa: E402

ERROR = 0.12  # of what is computed
BATCH = 64
ADDED = [name for name in protocol.FIELDS if name not in ("step", "time", "loss")]


def fill(daemon, runs, steps, values, bad):
    """Runs that go on beside each other; every `bad`-th one turns to NaN."""
    draw = random.Random(1)
    fields = ["step", "time", "loss", *ADDED[:values - 1]]
    peers = [Peer(daemon.ingest, run=f"run-{i}") for i in range(runs)]
    for peer in peers:
        peer.hello(fields=fields)
    for batch, first in enumerate(range(0, steps, BATCH), start=1):
        for number, peer in enumerate(peers):
            sick = bad and number % bad == 0 and first > steps * 0.7
            peer.send(protocol.STEPS, batch, [
                [step, 1e9 + step, float("nan") if sick else 1 + draw.random() / (1 + step),
                 *(draw.random() for _ in fields[3:])]
                for step in range(first, min(first + BATCH, steps))])
        for peer in peers:
            peer.acked(batch)
    for peer in peers:
        peer.send(protocol.BYE, batch + 1, "finished", "")
        peer.acked(batch + 1)
        peer.close()


@pytest.mark.parametrize("shape", [
    {"runs": 10, "steps": 3000, "values": 5, "bad": 5},
    {"runs": 120, "steps": 250, "values": 5, "bad": 3},
    {"runs": 6, "steps": 3000, "values": 20, "bad": 0},
], ids=["long", "short", "wide"])
def test_size_is_as_computed(start_daemon, shape):
    daemon = start_daemon(config="[hook none]\ncommand = /bin/true\n")
    fill(daemon, **shape)
    daemon.stop()
    with sqlite3.connect(daemon.data / "seismo.db") as db:
        def sql(query):
            return db.execute(query).fetchall()

        assert sql("SELECT sum(steps) FROM runs")[0][0] == shape["runs"] * shape["steps"]
        computed, used = size.computed(sql), size.used(sql)
    print(f"{used / 1e6:.2f} MB where {computed / 1e6:.2f} are computed")
    assert used > 2e6
    assert abs(used - computed) < ERROR * computed, f"{used / 1e6:.2f} MB, computed {computed / 1e6:.2f}"
