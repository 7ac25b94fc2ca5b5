"""The memory that is left, on machines and in containers that are a few files."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from neo_model.utils import memory
from neo_model.utils.memory import available_memory

GB = 10**9
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
HUGE_PAGES = SETTING.read_text() if SETTING.exists() else "[never]"
FILES = {
    2: ("0::{}", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    1: (
        "12:cpu,cpuacct:/\n4:memory:{}\n0::/",
        "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
    ),
}  # fmt: skip


@pytest.fixture(params=FILES, ids="version {}".format)
def machine(request, tmp_path, monkeypatch):
    """Pretends that 64 GB of the machine are available and that the process is in a control group."""
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    line, mount, *names, inactive = FILES[request.param]

    def pretend(in_group: str, limits: dict[str, tuple[int | str, int, int]]) -> None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {64 * GB // 1024} kB\n")
        (tmp_path / "proc/self/cgroup").write_text(line.format(in_group) + "\n")
        for group, (limit, used, read_once) in limits.items():
            folder = tmp_path / mount / group.lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            for name, value in zip(names, (limit, used), strict=True):
                (folder / name).write_text(f"{value}\n")
            (folder / "memory.stat").write_text(f"anon 7\n{inactive} {read_once}\nactive_file 5\n")

    return pretend


def test_pages_of_files_that_were_read_count_as_free(machine):
    machine("/", {"/": (16 * GB, 15 * GB, 12 * GB)})
    assert available_memory() == 13 * GB


@pytest.mark.parametrize("statistics", [None, "", "not two words\n"])
def test_without_statistics_the_limit_holds(machine, tmp_path, statistics):
    machine("/", {"/": (16 * GB, 15 * GB, 12 * GB)})
    (path,) = tmp_path.rglob("memory.stat")
    path.unlink() if statistics is None else path.write_text(statistics)
    assert available_memory() == 1 * GB


def test_the_limit_is_that_of_the_process_s_own_group(machine):
    machine("/slurm/job_7", {"/slurm/job_7": (8 * GB, 3 * GB, 1 * GB), "/slurm/job_8": (1 * GB, 1 * GB, 0)})
    assert available_memory() == 6 * GB


def test_a_group_around_it_may_leave_less(machine):
    machine("/slurm/job_7", {"/slurm/job_7": (8 * GB, 1 * GB, 0), "/slurm": (9 * GB, 7 * GB, 0)})
    assert available_memory() == 2 * GB


def test_a_container_may_see_its_group_at_the_top_under_the_host_s_name(machine):
    machine("/docker/0123", {"/": (8 * GB, 3 * GB, 0)})
    assert available_memory() == 5 * GB


@pytest.mark.parametrize("limits", [{}, {"/": ("max", 3 * GB, 0)}, {"/": (2**63 - 4096, 3 * GB, 0)}])
def test_without_a_limit_it_is_the_machine_s(machine, limits):
    machine("/", limits)
    assert available_memory() == 64 * GB // 1024 * 1024


def test_where_there_is_no_proc_it_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert available_memory() is None


def in_a_process_of_its_own(code: str) -> dict:
    """What ``code`` has left in ``found``; it may ask for the process's sizes in bytes."""
    prelude = """
import json, re
from pathlib import Path
from neo_model.utils import memory
def size(name, file="status"):
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self", file).read_text())[1])
found = {}
"""
    command = [sys.executable, "-c", prelude + code + "\nprint(json.dumps(found))"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="glibc's")
def test_huge_pages_take_addresses_and_no_memory():
    code = """
before = {name: size(name) for name in ("VmSize", "VmRSS")}
memory.use_huge_pages()
memory.use_huge_pages()  # of a second run in the same process
found = {name: size(name) - before[name] for name in before} | {"available": memory.available_memory()}
"""
    found = in_a_process_of_its_own(code)
    if found["VmSize"] < 2**25:
        pytest.skip("addresses are limited, or few, here")
    assert found["VmSize"] == pytest.approx(found["available"] / 2, rel=0.1, abs=2**28)
    assert found["VmRSS"] < 2**25


@pytest.mark.skipif("[never]" in HUGE_PAGES, reason="the kernel gives none")
def test_large_blocks_lie_in_huge_pages_and_stay_when_they_are_freed():
    code = """
import torch
memory.use_huge_pages()
blocks = [torch.ones(2**26, dtype=torch.uint8) for _ in range(4)]
found["huge"] = size("AnonHugePages", "smaps_rollup")
used = size("VmRSS")
del blocks
found["given back"] = used - size("VmRSS")
"""
    found = in_a_process_of_its_own(code)
    assert found["huge"] > 3.5 * 2**26 and found["given back"] < 2**20


@pytest.mark.parametrize(
    "limited",
    [
        "resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))",
        "resource.setrlimit(resource.RLIMIT_DATA, (2**36, 2**36))",
        "memory._addresses_are_scarce = lambda scarce=memory._addresses_are_scarce: strict(scarce)",
    ],
    ids=["addresses", "data", "strict kernel"],
)
def test_where_addresses_count_none_are_taken(limited, tmp_path):
    (tmp_path / "proc/sys/vm").mkdir(parents=True)
    (tmp_path / "proc/sys/vm/overcommit_memory").write_text("2\n")
    code = f"""
import resource
def strict(scarce):
    memory.ROOT = Path({str(tmp_path)!r})
    try:
        return scarce()
    finally:
        memory.ROOT = Path("/")
{limited}
before = size("VmSize")
memory.use_huge_pages()
found["taken"] = size("VmSize") - before
"""
    assert in_a_process_of_its_own(code)["taken"] < 2**24
