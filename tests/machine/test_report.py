"""The machine as the dashboard's page reads it, in a process of its own with a fake card."""

from __future__ import annotations

import json
import subprocess
import sys

from fake_nvml.plugin import FakeNvml
from tests.patience import stretch

_REPORT = """
import dataclasses, json, os, sys, time
from pathlib import Path
from relight.machine.gpu_watch import GpuWatch
import relight.machine.report
from relight.machine.report import MachineReader
# The test may itself run in a container; the fake driver lists this process's own pid all the same.
relight.machine.report.pids_are_the_hosts = lambda: True
reader = MachineReader(Path("."), interval_s=0.05, gpus=GpuWatch(interval_s=0.05, stale_s=0.5))
reader.start()
def wait(true):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        started = time.monotonic()
        report = reader.latest()
        took_s = time.monotonic() - started
        if true(report):
            return {"rows": [dataclasses.asdict(row) for row in report.gpu_processes], "took_s": took_s,
                    "errors": [card.error for card in report.gpu.cards], "free": report.host.disk_free_bytes}
        time.sleep(0.02)
    raise SystemExit("never true")
state = Path(os.environ["FAKE_NVML"])
healthy = state.read_text()
state.write_text(healthy + f"g0.procs={os.getpid()}:5000,4000000:7000\\n")
seen = wait(lambda r: r.host and any(row.name for row in r.gpu_processes))
state.write_text(healthy + "hang.nvmlDeviceGetMemoryInfo=600\\n")
hung = wait(lambda r: r.gpu.cards and r.gpu.cards[0].error)
print(json.dumps([os.getpid(), seen, hung]))
reader.close()
"""


def test_the_page_sees_processes_by_name_and_never_waits_for_a_hung_card(fake_nvml: FakeNvml) -> None:
    fake_nvml.write(fake_nvml.card())
    done = subprocess.run(
        [sys.executable, "-c", _REPORT],
        env=fake_nvml.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    pid, seen, hung = json.loads(done.stdout)
    ours, unknown = seen["rows"]
    assert (ours["pid"], ours["memory_bytes"], ours["gpu_index"]) == (pid, 5000, 0)
    assert "python" in ours["command"]
    assert len(ours["command"]) <= 120
    assert unknown["name"] is None
    assert seen["free"] > 0
    assert "stopped answering" in hung["errors"][0]
    assert hung["took_s"] < stretch(0.2)
