"""The manual pages, the unit and the sample configuration say what the programs do."""
import os
import pathlib
import re
import subprocess
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SEISMO_BUILD", ROOT / "build"))
SEISMOD = BUILD / "daemon" / "seismod"
MAX_EXPOSURE = 1.5  # of `systemd-analyze security`


def seismod(*args):
    done = subprocess.run([str(SEISMOD), *args], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


def keys(text):
    """The keys of a configuration by section, those that are commented out included."""
    found, section = {}, None
    for line in text.splitlines():
        if head := re.fullmatch(r"#?\[([a-z]+)( [^]]*)?\]", line):
            section = found.setdefault(head.group(1), set())
        elif pair := re.match(r"#?([a-z_]+) =", line):
            section.add(pair.group(1))
    return found


def manual_keys():
    """What stands in seismod.conf(5) as `.It Ic KEY No = …` below `.Ss [SECTION]`."""
    found, section = {}, None
    for line in (ROOT / "daemon" / "seismod.conf.5").read_text(encoding="utf-8").splitlines():
        if head := re.match(r"\.Ss \[([a-z]+)", line):
            section = found.setdefault(head.group(1), set())
        elif item := re.match(r"\.It Ic ([a-z_]+) No = ", line):
            section.add(item.group(1))
    return found


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """All keys that exist, from --print-config without and with a hook."""
    config = tmp_path_factory.mktemp("config") / "hook.conf"
    config.write_text("[hook page]\ncommand = /bin/true\n")
    without = keys(seismod("--print-config"))
    with_hook = keys(seismod("--config", str(config), "--print-config"))
    assert without == with_hook
    assert set(without) == {"seismod", "security", "store", "runs", "limits", "hook"}
    assert "ingest" in without["seismod"]
    return without


def test_every_key_stands_in_the_manual(printed):
    assert manual_keys() == printed


def test_every_key_stands_in_the_sample(printed):
    sample = ROOT / "systemd" / "seismod.conf"
    assert keys(sample.read_text(encoding="utf-8")) == printed
    seismod("--config", str(sample), "--check-config")


def test_commented_defaults_of_the_sample_are_the_defaults(tmp_path):
    """With every comment sign before a key taken away the configuration is the same."""
    sample = (ROOT / "systemd" / "seismod.conf").read_text(encoding="utf-8")
    general = sample[:sample.index("#[hook ")]
    defaults = re.sub(r"(?m)^#([a-z_]+ = )", r"\1", general)
    defaults = re.sub(r"(?m)^(data|model|server_key|clients|socket_group) = .*\n", "", defaults)  # examples: their defaults depend
    printed = []
    for text in (general, defaults):
        path = tmp_path / "seismod.conf"
        path.write_text(text)
        printed.append(re.sub(r"(?m)^#([a-z_]+ = )", r"\1", seismod(
            "--config", str(path), "--data", str(tmp_path), "--print-config")))
    assert defaults != general and printed[0] == printed[1]


def test_every_option_stands_in_the_manual():
    options = set(re.findall(r"--([a-z][a-z-]*)", seismod("--help")))
    manual = (ROOT / "daemon" / "seismod.8").read_text(encoding="utf-8")
    assert "ingest" in options
    assert set(re.findall(r"(?m)^\.It Fl -([a-z-]+)", manual)) == options
    synopsis = manual[manual.index(".Sh SYNOPSIS"):manual.index(".Sh DESCRIPTION")]
    assert set(re.findall(r"(?:Fl|\|) -([a-z][a-z-]*)", synopsis)) == options


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The tree that `meson install` makes."""
    tree = tmp_path_factory.mktemp("install")
    subprocess.run(["meson", "install", "--no-rebuild", "--quiet", "-C", str(BUILD)], check=True,
                   env={**os.environ, "DESTDIR": str(tree)}, capture_output=True, timeout=120)
    return tree


@pytest.mark.plain_only
def test_install_puts_everything_in_its_place(installed):
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if not path.is_dir()}
    for wanted in ("bin/seismod", "bin/seismo", "include/seismo.h", "share/man/man8/seismod.8",
                   "share/man/man5/seismod.conf.5", "lib/systemd/system/seismod.service",
                   "lib/sysusers.d/seismo.conf", "etc/seismo/seismod.conf",
                   "dist-packages/seismo/__init__.py", "dist-packages/seismo/torch/__init__.py",
                   "dist-packages/seismo/_speedups" + sysconfig.get_config_var("EXT_SUFFIX")):
        assert any(name.endswith("/" + wanted) for name in files), (wanted, sorted(files))
    assert any(re.search(r"/libseismo\.so$", name) for name in files), sorted(files)
    unit = next(installed.rglob("seismod.service")).read_text(encoding="utf-8")
    program, _, config = re.search(r"(?m)^ExecStart=(\S+) (\S+) (\S+)$", unit).groups()
    assert "@" not in re.sub(r"@[a-z-]+", "", unit.split("SystemCallFilter")[0])
    for path in (program, config):
        assert (installed / path.lstrip("/")).exists(), path


@pytest.mark.plain_only
def test_unit_is_hardened(installed, tmp_path):
    """Exposure at most MAX_EXPOSURE, and the unit says nothing that systemd does not know."""
    unit = tmp_path / "seismod.service"
    unit.write_text(next(installed.rglob("seismod.service")).read_text(encoding="utf-8"))
    analyze = ["systemd-analyze", "--no-pager", "--offline=true", "security", str(unit)]
    done = subprocess.run(analyze, capture_output=True, text=True, timeout=60)
    exposure = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout).group(1))
    assert exposure <= MAX_EXPOSURE, done.stdout
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)],
                              capture_output=True, text=True, timeout=60)
    complaints = [line for line in verified.stderr.splitlines()
                  if "seismod.service" in line and "is not executable" not in line]
    assert complaints == []
