"""Virtual environments of their own for what is compared with, each made from a lock, every file checked by its hash.

python -m benchmarks.peers.environment           lock `benchmarks/peers.in` again, after the project's lock changed
python -m benchmarks.peers.environment judges    the same of `benchmarks/judges.in`
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from features import HeadwayError

BENCHMARKS = Path(__file__).resolve().parent.parent
NEEDS, LOCK = BENCHMARKS / "peers.in", BENCHMARKS / "peers.lock"
PROJECT_LOCK = BENCHMARKS.parent / "requirements.lock"
SHARED = (
    "fastapi", "httptools", "joblib", "msgspec", "numpy", "pandas", "pydantic", "pydantic-core", "scikit-learn",
    "scipy", "starlette", "treelite", "uvicorn", "uvloop",
)  # fmt: skip
"""Locked at the versions of the project's lock: the same model, and the same web stack where it is the same."""
PIN = re.compile(rf"^(?:{'|'.join(SHARED)})==[^\\\n]*", re.MULTILINE)


def made(folder: Path, locked: Path = LOCK) -> Path:
    """The Python of the environment that `locked` describes, below `folder`; made there unless it is there already.

    Raises HeadwayError when it cannot be installed.
    """
    place = folder / f"{locked.stem}-{hashlib.sha256(locked.read_bytes()).hexdigest()[:12]}"
    python, ready = place / "bin" / "python", place / "ready"
    if not ready.exists():
        print(f"making the environment of {locked.name} in {place} (once; 700 MB or more)", flush=True)
        _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(place))
        _uv("pip", "install", "--quiet", "--python", str(python), "--require-hashes", "-r", str(locked))
        ready.touch()
    return python


def pins(lock: Path) -> list[str]:
    """The lines of a lock that pin what is shared."""
    return sorted(pin.strip() for pin in PIN.findall(lock.read_text()))


def lock(needs: Path = NEEDS) -> None:
    """Write the lock beside `needs` anew. Raises HeadwayError when nothing satisfies them."""
    command = " ".join(["python -m benchmarks.peers.environment", *([needs.stem] if needs != NEEDS else [])])
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as shared:
        shared.write("\n".join(pins(PROJECT_LOCK)))
        shared.flush()
        _uv(
            "pip", "compile", str(needs), "--constraints", shared.name, "--universal", "--python-version", "3.11",
            "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate", "--upgrade",
            "--custom-compile-command", command, "--quiet", "-o", str(needs.with_suffix(".lock")),
        )  # fmt: skip


def _uv(*arguments: str) -> None:
    # `python -m uv` finds the one of this environment, wherever that is.
    done = subprocess.run([sys.executable, "-m", "uv", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HeadwayError(f"uv {' '.join(arguments[:2])} failed:\n{done.stderr.strip()}")


if __name__ == "__main__":
    lock(*(BENCHMARKS / f"{name}.in" for name in sys.argv[1:2]))
