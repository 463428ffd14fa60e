"""Where the files lie that some tests use and no test needs: they skip where there are none."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
