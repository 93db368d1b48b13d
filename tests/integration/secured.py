"""A daemon on TCP that asks for keys, and its clients' key files."""
import pathlib
import re

from conftest import Daemon, free_port, run_cli

SECTION = """
[security]
server_key = {keys}/server.key
clients = {keys}/clients
"""


def read_key(path):
    """The key that stands in a file."""
    return re.search(r"(?m)^(?:public|secret) = (\S{40})$", path.read_text()).group(1).encode()


class Secured(Daemon):
    """A daemon with keys on every socket but `local`, a second ingest endpoint that is a file."""

    def __init__(self, directory, roles, config="", start=True):
        """`roles`: {client: its line of roles}"""
        directory = pathlib.Path(directory)
        self.keys = directory / "keys"
        self.clients = self.keys / "clients"
        run_cli("keygen", self.keys, "--server")
        self.clients.mkdir()
        for client in roles:
            run_cli("keygen", self.keys, "--name", client)
        self.local = f"ipc://{directory}/local.sock"
        super().__init__(directory, SECTION.format(keys=self.keys) + config, start=False)
        self.ingest, self.query, self.events = (f"tcp://127.0.0.1:{free_port()}"
                                                for _ in range(3))
        self.options = ["--ingest", self.local]
        for client, line in roles.items():
            self.authorise(client, line)
        if start:
            self.start()

    def authorise(self, client, roles):
        """(Re)writes the client's file in one move, as an editor does."""
        fresh = self.keys / "fresh"
        fresh.write_text((self.keys / f"{client}.pub").read_text() + f"roles = {roles}\n")
        fresh.rename(self.clients / f"{client}.pub")

    def revoke(self, client):
        (self.clients / f"{client}.pub").unlink()

    def own_keys(self, client):
        """As a Peer takes them."""
        return (read_key(self.keys / "server.pub"), read_key(self.keys / f"{client}.pub"),
                read_key(self.keys / f"{client}.key"))

    def environment(self, client):
        """As the programs take them."""
        return {"SEISMO_SERVER_KEY_FILE": str(self.keys / "server.pub"),
                "SEISMO_KEY_FILE": str(self.keys / f"{client}.key"),
                "SEISMO_INGEST": self.ingest, "SEISMO_QUERY": self.query}

    def all_keys(self):
        """Every key there is, secret or public."""
        return {read_key(path) for path in self.keys.iterdir() if path.suffix in (".key", ".pub")}
