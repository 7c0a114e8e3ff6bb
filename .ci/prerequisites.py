"""Check that libp2p's one compiled dependency can be built here; if not, print the one line that mends it."""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

APT_LINE = "sudo apt-get install -y gcc python3-dev python3-venv libgmp-dev make git"


def missing() -> list[str]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return ["a C compiler"]
    include = sysconfig.get_paths()["include"]
    absent: list[str] = []
    for header, name in (("Python.h", "Python's headers"), ("gmp.h", "libgmp-dev")):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text(f"#include <{header}>\nint main(void) {{ return 0; }}\n")
            result = subprocess.run([compiler, f"-I{include}", "-fsyntax-only", str(source)], capture_output=True)
            if result.returncode != 0:
                absent.append(name)
    try:
        import ensurepip  # noqa: F401  (Debian splits it off into python3-venv)
    except ImportError:
        absent.append("python3-venv")
    return absent


if absent := missing():
    print(f"Missing: {', '.join(absent)}. On Debian or Ubuntu this installs all that Shoal needs:\n\n    {APT_LINE}\n")
    sys.exit(1)
