"""The files of clusters/ as a user would have edited them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "clusters"
RAY_UP = sorted(CLUSTERS.glob("*.yaml"))
MANIFESTS = sorted((CLUSTERS / "kuberay").glob("*.yaml"))
SCRIPTS = sorted([*CLUSTERS.glob("*.sh"), *CLUSTERS.glob("*.sbatch")])
ANSWERS = {
    "EDIT-head": "10.0.0.1",
    "EDIT-worker-1": "10.0.0.2",
    "EDIT-worker-2": "10.0.0.3",
    "EDIT-user": "ray",
    "EDIT-your-address/32": "203.0.113.7/32",
    "EDIT-ami": "ami-0123456789abcdef0",
    "EDIT-head-profile": "rsray-head",
    "EDIT-worker-profile": "rsray-worker",
    "EDIT-bucket": "my-bucket",
    "EDIT-project": "my-project",
    "EDIT-common-cu-family": "common-cu130-ubuntu-2204-py310",
}


def edit(file, folder):
    """Write an edited copy below a folder that looks like a checkout, and return its path."""
    text = file.read_text()
    for blank, answer in ANSWERS.items():
        text = text.replace(blank, answer)
    for key in ("rsray.pem", "rsray_cluster"):
        text = text.replace(f"~/.ssh/{key}", str(folder / key))
        (folder / key).write_text("no key")
    (folder / "clusters").mkdir(exist_ok=True)
    for name in ("pyproject.toml", "uv.lock"):
        (folder / name).write_text("")
    (folder / "clusters" / "idle-shutdown.sh").write_text("")
    copy = folder / "clusters" / file.name
    copy.write_text(text)
    return copy
