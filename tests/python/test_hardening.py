"""What the compiler and the linker can do against exploits is in the built files."""
import os
import pathlib
import platform
import re
import subprocess
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SEISMO_BUILD", ROOT / "build"))
PROGRAMS = ["daemon/seismod", "client/seismo", "client/seismo-example"]
SPEEDUPS = "client/python/_speedups" + sysconfig.get_config_var("EXT_SUFFIX")
LIBRARIES = ["client/libseismo.so", "models/libseismo_detector.so", SPEEDUPS]
X86 = platform.machine() == "x86_64"
PLAIN = {"client/seismo-example"}  # so small that it calls nothing that is ever checked
UNFORTIFIED = {*PLAIN, SPEEDUPS}  # copies only what has no size for the compiler


def readelf(options, path):
    return subprocess.run(["readelf", "-W", options, str(path)], check=True, capture_output=True,
                          text=True).stdout


@pytest.mark.parametrize("name", PROGRAMS + LIBRARIES)
def test_linked_file(name):
    path = BUILD / name
    head, segments, dynamic = readelf("-h", path), readelf("-l", path), readelf("-d", path)
    symbols = set(re.findall(r"UND (\w+)", readelf("--dyn-syms", path)))
    assert re.search(r"Type: +DYN", head), "not position independent"
    if name in PROGRAMS:
        assert re.search(r"FLAGS_1\).*\bPIE\b", dynamic), "not a position-independent program"
    assert re.search(r"(?m)^ +GNU_RELRO ", segments), "no RELRO"
    assert "BIND_NOW" in dynamic, "RELRO is partial: symbols are bound lazily"
    assert re.search(r"(?m)^ +GNU_STACK( +0x\w+){5} RW ", segments), "the stack can be executed"
    assert not re.search(r"(?m)^ +LOAD( +0x\w+){5} RWE", segments), "a segment is both W and X"
    if name not in PLAIN:
        assert "__stack_chk_fail" in symbols, "no stack protector"
    if name not in UNFORTIFIED:
        assert {s for s in symbols if s.endswith("_chk")}, "no _FORTIFY_SOURCE"
    if X86:
        assert re.search(r"x86 feature: .*\bSHSTK\b", readelf("-n", path)), "no shadow stack"


def test_objects_keep_to_control_flow():
    """The linked programs lose the mark for indirect branches when the C library's start files
    lack it (Debian 12's do); what is compiled here has both."""
    objects = [o for folder in ("proto", "models", "daemon", "client")
               for o in (BUILD / folder).glob("*.p/*.o")]
    assert len(objects) > 50
    for path in objects:
        assert "x86 feature: IBT, SHSTK" in readelf("-n", path) or not X86, path


def test_level_of_the_checked_functions():
    """Level 3, where the compiler finds out sizes at run time, or 2 with an older one."""
    commands = subprocess.run(["ninja", "-C", str(BUILD), "-t", "commands", "daemon/seismod"],
                              check=True, capture_output=True, text=True).stdout.splitlines()
    version = subprocess.run(["cc", "-dumpfullversion"], check=True, capture_output=True, text=True)
    best = "3" if int(version.stdout.split(".")[0]) >= 12 else "2"
    compiled = [c for c in commands if " -c " in c and "builtin_model.S" not in c]
    assert len(compiled) > 40
    for command in compiled:
        assert f"-D_FORTIFY_SOURCE={best}" in command
        assert "-fstack-protector-strong" in command and "-fstack-clash-protection" in command
