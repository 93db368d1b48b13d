"""A Debian 12 machine of its own, with systemd, into which a build of seismo has been installed.

It is made by debootstrap from Debian's packages and run by qemu without KVM: slow, and the same
everywhere. Needs root, the packages of the group `machine` and a mirror of Debian's packages.
"""
import base64
import pathlib
import socket
import subprocess
import time
import uuid

import daemons

PACKAGES = ("systemd-sysv linux-image-cloud-amd64 initramfs-tools udev libuv1 libzmq5 libmsgpackc2 "
            "libsqlite3-0 libjansson4 zlib1g libinih1 libseccomp2").split()
MIRROR = "http://deb.debian.org/debian"
ADDRESS, INGEST = "10.0.2.15", 7747  # of the machine, as qemu's user network has it
BOOT_PATIENCE = 600.0  # s

NETWORK = f"""[Match]
Name=e*
[Network]
Address={ADDRESS}/24
Gateway=10.0.2.2
"""
# A shell whose input and output are a device that qemu connects with a socket outside.
AGENT = """[Service]
ExecStart=/bin/sh
Environment=HOME=/root
StandardInput=file:/dev/virtio-ports/agent
StandardOutput=file:/dev/virtio-ports/agent
StandardError=file:/dev/virtio-ports/agent
Restart=always
RestartSec=1
[Unit]
StartLimitIntervalSec=0
[Install]
WantedBy=multi-user.target
"""


def _tell(*command):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{command}: exit {done.returncode}: {done.stdout[-2000:]}"


class Machine:
    """The machine; its files lie in `directory`. `ingest` leads to port 7747 in it."""

    def __init__(self, directory: pathlib.Path):
        self.directory, self.boots = directory, 0
        self.disk, self.console = directory / "disk", directory / "console"
        self.process = self.agent = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.ingest = f"tcp://127.0.0.1:{self.port}"

    def make(self):
        """The disk: Debian, and what `meson install` puts there."""
        self.directory.mkdir()
        root = self.directory / "root"
        _tell("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm",
              root, MIRROR)
        _tell("meson", "install", "-C", daemons.BUILD, "--no-rebuild", "--destdir", root)
        for name, text in {"etc/systemd/network/all.network": NETWORK,
                           "etc/systemd/system/agent.service": AGENT,
                           "etc/fstab": "LABEL=root / ext4 rw 0 1\n",
                           "etc/hostname": "watched\n"}.items():
            (root / name).write_text(text, encoding="utf-8")
        _tell("chroot", root, "sh", "-c", "ldconfig && systemctl enable systemd-networkd agent")
        for name in ("vmlinuz", "initrd.img"):
            next((root / "boot").glob(f"{name}-*")).rename(self.directory / name)
        _tell("mkfs.ext4", "-q", "-L", "root", "-d", root, self.disk, "2G")
        _tell("rm", "-r", root)

    def boot(self):
        """Switches it on, and waits until it takes commands."""
        path = self.directory / "agent"
        path.unlink(missing_ok=True)
        with open(self.console, "ab") as console:
            self.process = subprocess.Popen(
                ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nographic",
                 "-no-reboot", "-monitor", "none", "-serial", "stdio",
                 "-kernel", str(self.directory / "vmlinuz"),
                 "-initrd", str(self.directory / "initrd.img"),
                 "-append", "root=LABEL=root rw console=ttyS0",
                 "-drive", f"file={self.disk},if=virtio,format=raw",
                 "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-{ADDRESS}:{INGEST}",
                 "-device", "virtio-net-pci,netdev=net",
                 "-chardev", f"socket,id=agent,path={path},server=on,wait=off",
                 "-device", "virtio-serial", "-device", "virtserialport,chardev=agent,name=agent"],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        end = time.monotonic() + BOOT_PATIENCE
        while not path.exists():
            assert self.process.poll() is None and time.monotonic() < end, self._console()
            time.sleep(0.05)
        self.agent = socket.socket(socket.AF_UNIX)
        self.agent.connect(str(path))
        self.run("systemctl is-system-running --wait", timeout=BOOT_PATIENCE)
        self.boots += 1

    def run(self, command: str, timeout=120.0) -> str:
        """What a command prints there, as root; its exit code must be 0."""
        mark = uuid.uuid4().hex
        self.agent.settimeout(timeout)
        self.agent.sendall(f"( {command}\n) </dev/null 2>&1; code=$?\n"
                           f"echo; echo {mark} $code\n".encode())
        said = b""
        while mark.encode() not in said or not said.endswith(b"\n"):
            part = self.agent.recv(1 << 16)
            assert part, self._console()
            said += part
        out, code = said.decode(errors="replace").rsplit(f"\n{mark} ", 1)
        assert int(code) == 0, f"{command}: exit {code.strip()}: {out[-3000:]}"
        return out

    def put(self, path: str, text: str):
        """Writes a file there."""
        self.run(f"base64 -d >{path} <<-.\n{base64.b64encode(text.encode()).decode()}\n.")

    def get(self, path: str) -> bytes:
        """The content of a file there."""
        return base64.b64decode(self.run(f"base64 {path}", timeout=600.0))

    def cut(self):
        """Takes its power away: what has not been written to the disk is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.agent.close()

    def _console(self) -> str:
        return self.console.read_text(encoding="utf-8", errors="replace")[-3000:]
