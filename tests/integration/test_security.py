"""Who gets in with which key, what a role allows, and that a revoked key is out at once."""
import grp
import json
import os
import pathlib
import signal
import socket
import stat
import subprocess
import time

import pytest
import zmq
from conftest import SEISMOD, free_port, run_cli, wait_for
from peer import Peer
from secured import Secured, read_key
from seismo import _protocol as protocol

ROLES = {"pusher": "push team-a/, push shared", "reader": "query", "chief": "push *, admin"}


@pytest.fixture
def secured(tmp_path):
    daemon = Secured(tmp_path, ROLES)
    yield daemon
    daemon.stop()
    nothing_leaked(daemon)


def nothing_leaked(daemon):
    """No key, nor the beginning of one, stands in the log or in the database."""
    database = b"".join(path.read_bytes() for path in daemon.data.iterdir() if path.is_file())
    for key in daemon.all_keys():
        assert key[:12] not in daemon.log().encode() + database


def seismod(*args):
    return subprocess.run([str(SEISMOD), *map(str, args)], capture_output=True, text=True, timeout=20)


def denied(answer):
    assert answer is not None and answer[0] == protocol.ERROR, answer
    assert answer[1] == "denied", answer
    return answer[2]


def ask(peer, number, method, **params):
    peer.send(protocol.QUERY, number, method, json.dumps(params))
    return peer.answer()


def connected(keys, kind, endpoint):
    """A socket of another kind with these keys, and its context."""
    context = zmq.Context()
    other = context.socket(kind)
    other.linger = 0
    if keys is not None:
        other.curve_serverkey, other.curve_publickey, other.curve_secretkey = keys
    other.connect(endpoint)
    return context, other


# ---- what a configuration may say ----


@pytest.mark.parametrize("key", ["ingest", "query", "events"])
@pytest.mark.parametrize("check", [True, False])
def test_beyond_loopback_is_refused_without_keys(tmp_path, key, check):
    endpoint = f"tcp://0.0.0.0:{free_port()}"
    done = seismod("--data", tmp_path / "data", f"--{key}", endpoint,
                   *(["--check-config"] if check else []))
    assert done.returncode == 1 and done.stdout == ""
    for words in (f"{key}: {endpoint} is not on loopback", "seismo keygen", "server_key"):
        assert words in done.stderr
    assert not (tmp_path / "data").exists()


def test_beyond_loopback_with_keys(tmp_path):
    daemon = Secured(tmp_path, ROLES, start=False)
    daemon.ingest = f"tcp://0.0.0.0:{free_port()}"
    check = ("--config", daemon.config, "--ingest", daemon.ingest, "--check-config")
    assert seismod(*check).returncode == 0
    daemon.start()
    reached = daemon.ingest.replace("0.0.0.0", "127.0.0.1")
    assert silent(reached, None, (protocol.QUERY, 1, "status", "{}"))
    peer = Peer(reached, run="team-a/1", keys=daemon.own_keys("pusher"))
    assert peer.hello()[0] == protocol.WELCOME
    peer.close()
    daemon.stop()


def test_faults_of_the_keys_are_found_at_the_start(tmp_path):
    daemon = Secured(tmp_path, ROLES, start=False)
    check = ("--config", daemon.config, "--check-config")
    assert seismod(*check).returncode == 0

    def fails(*words):
        for done in (seismod(*check), seismod("--config", daemon.config, "--data", daemon.data,
                                              "--ingest", daemon.local)):
            assert done.returncode == 1
            for word in words:
                assert word in done.stderr
            assert not any(key.decode()[:12] in done.stderr for key in daemon.all_keys())

    server = daemon.keys / "server.key"
    server.chmod(0o644)
    fails("server_key: ", "chmod 600")
    server.chmod(0o600)
    daemon.authorise("pusher", "push team-a/, quary")
    fails("clients: ", "pusher.pub", "push PREFIX")
    daemon.authorise("pusher", ROLES["pusher"])
    (daemon.clients / "twin.pub").write_text((daemon.clients / "pusher.pub").read_text())
    fails('"pusher" and "twin" have the same key')
    (daemon.clients / "twin.pub").unlink()
    (daemon.keys / "server.key").rename(daemon.keys / "away")
    fails("server_key: ", "No such file")
    (daemon.keys / "away").rename(daemon.keys / "server.key")
    daemon.clients.rename(daemon.keys / "elsewhere")
    fails("clients: ", "No such file")


@pytest.mark.parametrize("key", ["ingest", "query", "events"])
def test_a_start_that_fails_ends(tmp_path, key):
    """The thread that judges keys is running by then, and must not keep the process."""
    daemon = Secured(tmp_path, ROLES, start=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        setattr(daemon, key, f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        done = seismod("--config", daemon.config, "--data", daemon.data, "--ingest", daemon.ingest,
                       "--query", daemon.query, "--events", daemon.events)
    assert done.returncode == 1 and "in use" in done.stderr


# ---- who gets in ----


def silent(endpoint, keys, message):
    """Says something and hears nothing, because the handshake fails."""
    peer = Peer(endpoint, keys=keys)
    peer.send(*message)
    answer = peer.answer(timeout=0.7)
    peer.close()
    return answer is None


def test_only_authorised_keys_get_in(secured):
    run_cli("keygen", secured.keys, "--name", "stranger")
    run_cli("keygen", secured.keys / "other", "--server")
    own = secured.own_keys("chief")
    hello = (protocol.HELLO, {"version": 1, "run": "r", "program": "p", "session": b"s",
                              "fields": ["step", "loss"]})
    for endpoint, message in ((secured.ingest, hello), (secured.query, (4, 1, "status", "{}"))):
        assert silent(endpoint, None, message), "no keys at all"
        assert silent(endpoint, secured.own_keys("stranger"), message), "a key nobody authorised"
        wrong = read_key(secured.keys / "other" / "server.pub")
        assert silent(endpoint, (wrong, *own[1:]), message), "another server's key"
        assert not silent(endpoint, own, message)
    assert "a key that is not authorised was refused at the ingest socket" in secured.log()


def test_socket_files_need_no_key(secured):
    peer = Peer(secured.local, run="anything")
    assert peer.hello()[0] == protocol.WELCOME
    assert peer.steps(1, [[0, 1.0]])[0] == protocol.ACK
    peer.close()


def test_modes_of_socket_files(tmp_path, start_daemon):
    def modes(daemon):
        paths = [pathlib.Path(e.removeprefix("ipc://"))
                 for e in (daemon.ingest, daemon.query, daemon.events)]
        return {(stat.S_IMODE(os.stat(path).st_mode), os.stat(path).st_gid) for path in paths}

    old = os.umask(0)
    try:
        assert modes(start_daemon()) == {(0o600, os.getgid())}
        group = next(g for g in grp.getgrall() if g.gr_gid != os.getgid())
        config = f"[security]\nsocket_group = {group.gr_name}\n"
        daemon = start_daemon(config=config)
        assert modes(daemon) == {(0o660, group.gr_gid)}
        # A confined daemon asks no name service any more.
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "configuration reloaded" in daemon.log(), what="the reload")
        assert daemon.json("status")["peers"] == 0
    finally:
        os.umask(old)


# ---- roles ----


def test_push_only_below_the_prefixes(secured):
    pusher = secured.own_keys("pusher")
    for run in ("team-a/1", "shared", "shared-too"):
        peer = Peer(secured.ingest, run=run, keys=pusher)
        assert peer.hello()[0] == protocol.WELCOME
        assert peer.steps(1, [[0, 1.0]])[0] == protocol.ACK
        peer.close()
    for run in ("team-b/1", "team-a", "TEAM-A/1"):
        peer = Peer(secured.ingest, run=run, keys=pusher)
        text = denied(peer.hello())
        assert f'client "pusher" may not push the run "{run}"' in text
        peer.send(protocol.STEPS, 1, [[0, 1.0]])
        answer = peer.answer()
        assert answer[0] == protocol.ERROR and answer[1] == "hello_required"
        peer.close()
    peer = Peer(secured.ingest, run="x", keys=secured.own_keys("reader"))
    assert "lacks the role push" in denied(peer.hello())
    peer.close()


def test_query_and_admin(secured):
    streamer = Peer(secured.local, run="r")
    streamer.hello()
    streamer.steps(1, [[0, 1.0]])
    reader, chief, pusher = (Peer(secured.query, keys=secured.own_keys(client))
                             for client in ("reader", "chief", "pusher"))
    for peer in (reader, chief):
        assert ask(peer, 1, "runs")[0] == protocol.REPLY
    assert "lacks the role query" in denied(ask(pusher, 2, "runs"))
    assert "lacks the role admin" in denied(ask(reader, 3, "label", run="r", outcome="bad"))
    assert "lacks the role admin" in denied(ask(reader, 4, "no_such_method"))
    answer = ask(chief, 5, "label", run="r", outcome="bad")
    assert answer[0] == protocol.REPLY and json.loads(answer[2])["run"]["label"] == "bad"
    for peer in (streamer, reader, chief, pusher):
        peer.close()


def test_events_need_the_role_query(secured):
    feeds = {client: connected(secured.own_keys(client), zmq.SUB, secured.events)
             for client in ROLES}
    for _, feed in feeds.values():
        feed.subscribe(b"")
    wait_for(lambda: "pusher, which has not the role query, was refused" in secured.log(),
             what="the refusal")
    number = 0

    def heard(client):
        nonlocal number
        number += 1
        peer = Peer(secured.local, run=f"r{number}")
        peer.hello()
        peer.close()
        return feeds[client][1].poll(200)

    wait_for(lambda: heard("reader"), what="the reader's feed")
    wait_for(lambda: heard("chief"), what="the chief's feed")
    assert not heard("pusher")
    # Without the role the connection goes too, and the others' come back.
    secured.authorise("reader", "push r")
    secured.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "reader, which has not the role query, was refused" in secured.log(),
             what="the second refusal")
    while feeds["reader"][1].poll(0):
        feeds["reader"][1].recv_multipart()
    while feeds["chief"][1].poll(0):
        feeds["chief"][1].recv_multipart()
    wait_for(lambda: heard("chief"), what="the chief's feed, again")
    assert not feeds["reader"][1].poll(200)
    for context, _ in feeds.values():
        context.destroy(linger=0)


def test_a_routing_id_does_not_inherit_a_session(secured):
    """Whoever connects under the id of a client that is gone has nothing of its session."""
    first = Peer(secured.ingest, run="team-a/1", keys=secured.own_keys("pusher"), routing_id=b"me")
    assert first.hello()[0] == protocol.WELCOME
    assert first.steps(1, [[0, 1.0]])[0] == protocol.ACK
    first.close()

    def second():
        peer = Peer(secured.ingest, keys=secured.own_keys("chief"), routing_id=b"me")
        peer.send(protocol.STEPS, 2, [[1, 666.0]])
        answer = peer.answer(timeout=1)
        peer.close()
        return answer

    answer = wait_for(second, what="an answer")  # libzmq lets go of the id after a moment
    assert answer[0] == protocol.ERROR and answer[1] == "hello_required"


# ---- revocation ----


def peers_of(secured):
    peer = Peer(secured.query, keys=secured.own_keys("chief"))
    answer = ask(peer, 1, "status")
    peer.close()
    return json.loads(answer[2])["peers"]


@pytest.mark.parametrize("by_signal", [True, False])
def test_a_revoked_key_is_out_at_once(secured, by_signal):
    """Its session is cut off, what it sends is refused, and so are its questions; nobody else
    notices. The directory is looked at by itself, a signal only makes it quicker."""
    pusher = Peer(secured.ingest, run="team-a/1", keys=secured.own_keys("pusher"))
    reader = Peer(secured.query, keys=secured.own_keys("reader"))
    other = Peer(secured.ingest, run="kept", keys=secured.own_keys("chief"))
    for peer in (pusher, other):
        assert peer.hello()[0] == protocol.WELCOME
        assert peer.steps(1, [[0, 1.0]])[0] == protocol.ACK
    assert ask(reader, 1, "runs")[0] == protocol.REPLY
    assert peers_of(secured) == 2
    before = secured.log().count("clients are authorised")
    secured.revoke("pusher")
    secured.revoke("reader")
    started = time.monotonic()
    if by_signal:
        secured.process.send_signal(signal.SIGHUP)
    wait_for(lambda: secured.log().count("clients are authorised") > before, what="the reload")
    assert by_signal or time.monotonic() - started > 0.5
    assert "not authorised" in denied(pusher.answer())  # told without being asked
    pusher.send(protocol.STEPS, 2, [[1, 2.0]])
    assert "not authorised" in denied(pusher.answer())
    assert "not authorised" in denied(pusher.hello())
    assert "not authorised" in denied(ask(reader, 2, "runs"))
    assert peers_of(secured) == 1
    assert other.steps(2, [[1, 1.0]])[0] == protocol.ACK
    assert silent(secured.query, secured.own_keys("reader"), (4, 1, "status", "{}"))
    # Authorised again it goes on where it was.
    secured.authorise("pusher", ROLES["pusher"])
    secured.process.send_signal(signal.SIGHUP)
    answer = wait_for(lambda: (a := pusher.hello()) and a[0] == protocol.WELCOME and a,
                      what="the way back")
    assert answer[1]["last_batch"] == 1
    assert pusher.steps(2, [[1, 2.0]])[0] == protocol.ACK
    for peer in (pusher, reader, other):
        peer.close()


def test_a_prefix_that_is_taken_away_cuts_its_runs_off(secured):
    runs = {run: Peer(secured.ingest, run=run, keys=secured.own_keys("pusher"))
            for run in ("team-a/1", "shared")}
    for peer in runs.values():
        assert peer.hello()[0] == protocol.WELCOME
    secured.authorise("pusher", "push shared")
    secured.process.send_signal(signal.SIGHUP)
    assert "team-a/1" in denied(runs["team-a/1"].answer())
    assert runs["shared"].steps(1, [[0, 1.0]])[0] == protocol.ACK
    for peer in runs.values():
        peer.close()


def test_a_mistake_keeps_nobody_in(secured):
    """A file that is wrong, even a configuration that is wrong, does not keep a revoked key in."""
    peer = Peer(secured.ingest, run="team-a/1", keys=secured.own_keys("pusher"))
    assert peer.hello()[0] == protocol.WELCOME
    secured.config.write_text("[seismod]\nnonsense = 1\n")
    (secured.clients / "reader.pub").write_text("roles = query\n")
    secured.revoke("pusher")
    secured.process.send_signal(signal.SIGHUP)
    assert "not authorised" in denied(peer.answer())
    assert "reader.pub holds no public key" in secured.log()
    assert silent(secured.query, secured.own_keys("reader"), (4, 1, "status", "{}"))
    assert peers_of(secured) == 0
    peer.close()


def test_without_its_directory_nobody_is_in(secured):
    peer = Peer(secured.ingest, run="team-a/1", keys=secured.own_keys("pusher"))
    assert peer.hello()[0] == protocol.WELCOME
    secured.clients.rename(secured.keys / "away")
    assert "not authorised" in denied(peer.answer())
    peer.close()


def test_with_a_directory_that_everybody_can_write_nobody_is_in(secured):
    """Until that is mended, which needs no signal."""
    peer = Peer(secured.ingest, run="team-a/1", keys=secured.own_keys("pusher"))
    assert peer.hello()[0] == protocol.WELCOME
    secured.clients.chmod(0o777)
    assert "not authorised" in denied(peer.answer())
    assert "can be written by everybody" in secured.log()
    secured.clients.chmod(0o755)
    wait_for(lambda: secured.log().count("clients are authorised") > 1, what="the reload")
    assert peer.hello()[0] == protocol.WELCOME
    peer.close()


# ---- secrets stay secret ----


def test_no_key_in_process_lists(secured):
    keys = secured.all_keys()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        assert not any(key[:12] in line for key in keys)
    status = Peer(secured.query, keys=secured.own_keys("chief"))
    assert not any(key[:12].decode() in str(ask(status, 1, "status")) for key in keys)
    status.close()


def test_keygen_never_replaces_a_file(tmp_path):
    run_cli("keygen", tmp_path, "--name", "a")
    files = {path.name: path for path in tmp_path.iterdir()}
    assert set(files) == {"a.key", "a.pub"}
    assert stat.S_IMODE(files["a.key"].stat().st_mode) == 0o600
    before = {name: path.read_bytes() for name, path in files.items()}
    done = run_cli("keygen", tmp_path, "--name", "a", check=False)
    assert done.returncode == 1 and "stays as it is" in done.stderr
    files["a.pub"].unlink()  # the secret alone is enough to refuse
    done = run_cli("keygen", tmp_path, "--name", "a", check=False)
    assert done.returncode == 1 and "a.key" in done.stderr
    assert files["a.key"].read_bytes() == before["a.key"] and not files["a.pub"].exists()
    secret = read_key(files["a.key"]).decode()
    made = json.loads(run_cli("keygen", tmp_path / "new" / "er", "--json").stdout)
    assert (made["name"], made["secret"]) == ("client", str(tmp_path / "new" / "er" / "client.key"))
    assert all(stat.S_IMODE(d.stat().st_mode) == 0o700 for d in (tmp_path / "new", tmp_path / "new" / "er"))
    assert secret not in done.stdout + done.stderr
    for bad in ("", ".x", "a/b", "a b", "x" * 60):
        assert run_cli("keygen", tmp_path, "--name", bad, check=False).returncode == 2
