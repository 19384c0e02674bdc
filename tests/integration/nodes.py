"""Machines for tests: each has its own network, host name, processes and boot, and they share the disk of this one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from integration import soak

PROGRAMS = ("ip", "unshare", "nsenter", "setpriv", "mount", "hostname", "bash")
INTERFACE = "eth0"
_SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""A process that is started with this ends with the tests."""
_BOOT = """\
hostname "$1" && mount --bind "$2" /proc/sys/kernel/random/boot_id
mount --bind "$3" /etc/hosts && mount --bind /dev/null /etc/resolv.conf && touch "$2.up"
while :; do sleep 1000; done
"""
"""The first process of a machine. bash reaps what other processes leave behind, as every first process must."""


def find_obstacle() -> str:
    """Say why no machines can be made here; "" if they can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    missing = [name for name in PROGRAMS if shutil.which(name, path=_SBIN) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (iproute2 util-linux)"
    tried = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc",
         "ip", "link", "add", "va", "type", "veth", "peer", "name", "vb"],
        env={**os.environ, "PATH": _SBIN}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


class Machine:
    """One machine. Its network card stays when it loses power."""

    def __init__(self, name: str, address: str, *, folder: Path, hosts: Path) -> None:
        """`hosts` names the machines that it knows: it asks nobody else."""
        self.name = name
        self.address = address
        self._folder = folder
        self._hosts = hosts
        self._card = _hold_network()
        self._power: subprocess.Popen[bytes] | None = None
        self.run_here("ip", "link", "set", "lo", "up")

    @property
    def card(self) -> int:
        """A process in the network namespace of this machine."""
        return self._card.pid

    def boot(self) -> None:
        """Switch the machine on."""
        boot_id = self._folder / f"{self.name}-{uuid.uuid4()}"
        boot_id.write_text(f"{uuid.uuid4()}\n")
        self._power = subprocess.Popen(
            [*_WITH_US, "nsenter", "--net", "-t", str(self.card), "unshare", "--uts", "--mount", "--pid", "--fork",
             "--kill-child", "--mount-proc", "bash", "-c", _BOOT, "boot", self.name, str(boot_id), str(self._hosts)],
            env={**os.environ, "PATH": _SBIN},
        )  # fmt: skip
        soak.wait_for(Path(f"{boot_id}.up").exists, why=f"{self.name} to boot")

    def start(
        self, command: Sequence[str], *, log: Path, folder: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a command on the machine."""
        assert self._power is not None
        (first,) = Path(f"/proc/{self._power.pid}/task/{self._power.pid}/children").read_text().split()
        with log.open("ab") as output:
            return subprocess.Popen(
                ["nsenter", "-t", first, "--net", "--uts", "--mount", "--pid", f"--wd={folder}", "--", *command],
                env={**os.environ, "PATH": _SBIN, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        """Kill everything that runs on the machine at once. The other machines see its connections close."""
        if self._power is not None:
            self._power.kill()
            self._power.wait()
            self._power = None

    def remove(self) -> None:
        """Take the machine away, with its network card."""
        self.kill()
        self._card.kill()
        self._card.wait()

    def run_here(self, *words: str) -> None:
        """Run a command in the machine's network, also when the machine is off."""
        subprocess.run(
            ["nsenter", "--net", "-t", str(self.card), *words],
            env={**os.environ, "PATH": _SBIN}, check=True, capture_output=True,
        )  # fmt: skip


class Network:
    """Machines n1, n2…, each connected to one switch by a cable of its own. Nothing else can be reached."""

    def __init__(self, folder: Path, *, machines: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        addresses = {f"n{number}": f"10.77.0.{number}" for number in range(1, machines + 1)}
        hosts = folder / "hosts"
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{each} {name}\n" for name, each in addresses.items()))
        self._switch = Machine("switch", "", folder=folder, hosts=hosts)
        self._switch.run_here("ip", "link", "add", "hub", "type", "bridge", "forward_delay", "0")
        self._switch.run_here("ip", "link", "set", "hub", "up")
        self.machines = [Machine(name, address, folder=folder, hosts=hosts) for name, address in addresses.items()]
        for each in self.machines:
            self._switch.run_here(
                "ip", "link", "add", each.name, "type", "veth",
                "peer", "name", INTERFACE, "netns", str(each.card),
            )  # fmt: skip
            self._switch.run_here("ip", "link", "set", each.name, "master", "hub", "up")
            each.run_here("ip", "addr", "add", f"{each.address}/24", "dev", INTERFACE)
            each.run_here("ip", "link", "set", INTERFACE, "up")
            each.boot()

    def cut(self, machine: Machine) -> None:
        """Cut the cable of a machine: nothing closes, and nothing arrives any more."""
        self._switch.run_here("ip", "link", "set", machine.name, "down")

    def mend(self, machine: Machine) -> None:
        """Mend the cable."""
        self._switch.run_here("ip", "link", "set", machine.name, "up")

    def remove(self) -> None:
        """End everything."""
        for each in (*self.machines, self._switch):
            with contextlib.suppress(OSError):
                each.remove()


def _hold_network() -> subprocess.Popen[bytes]:
    """Start a process with a network namespace of its own, which lives as long as that process."""
    holder = subprocess.Popen([*_WITH_US, "unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
    namespace, own = Path(f"/proc/{holder.pid}/ns/net"), Path("/proc/self/ns/net").readlink()
    soak.wait_for(lambda: namespace.readlink() != own, why="a network")
    return holder
