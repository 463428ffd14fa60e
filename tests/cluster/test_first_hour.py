"""Every command of clusters/FIRST-HOUR.md, on a cluster of one host, with small budgets."""

import os
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from two_hosts import ROOT, Laptop, TwoHosts, require_tools

from rsray.storage import Place

PAGE = (ROOT / "clusters" / "FIRST-HOUR.md").read_text()
BLOCK = re.compile(r"```\n(.*?)```\n(.*?)(?=\n```|\n## |\Z)", flags=re.DOTALL)
# The command and its subcommand -> options that make it small: in the place of those of the page.
SMALL = {
    "tune": "--trials 1 --epochs 2 --n 200 --certify-limit 4 --objective gaussian --no-compare",
    "certify": "--n 50 --n0 10 --limit 3 --compile off --precision fp32",
    "audit": "--blocks 2",
    "train": "--limit 8 --batch-size 4",
}
# Instead of a number of images and of every K-th.
LIMITED = ("--skip",)


def commands():
    """Yield (command lines, what they print) of each block of the page."""
    for block, told in BLOCK.findall(PAGE):
        lines = block.strip().splitlines()
        promised = re.split(r"\n\n", told.strip())[0] if "rint" in told else ""
        yield lines, re.findall(r"`([^`]+)`", promised)


def small(words, cluster, data):
    """Return the words of a command of the page, for this machine."""
    given = {"cluster.yaml": str(cluster), "DATA": str(data)}
    words = [given.get(word, word) for word in words]
    extra = shlex.split(SMALL.get(words[0], ""))
    for option in [*LIMITED, *(word for word in extra if word.startswith("--"))]:
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
    return [*words, *extra]


@pytest.fixture
def pictures(tmp_path):
    """A folder like ImageNet's, of four classes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for synset in ("n01440764", "n01443537", "n01484850", "n01491361"):
            folder = tmp_path / "imagenet" / part / synset
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (256, 280, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{synset}_{number}.JPEG")
    return tmp_path / "imagenet"


def test_the_page_promises_words_of_each_step():
    steps = list(commands())
    assert len(steps) == 7
    assert all(line.startswith("rsray ") for lines, _ in steps for line in lines)
    assert sum(len(promised) for _, promised in steps) >= 10


@pytest.mark.slow
def test_every_command_of_the_page(tmp_path, pictures):
    require_tools()
    hosts = TwoHosts(tmp_path)
    name = f"rsray-hour-{os.getpid()}"
    # Two nodes of one machine would share a folder of Ray's, and the second makes a job's own anew.
    one_host = {"type": "local", "head_ip": hosts.head, "worker_ips": []}
    laptop, file = Laptop(tmp_path / "laptop"), hosts.definition(name, provider=one_host)
    file.write_text(file.read_text().replace("--num-cpus=1", "--num-cpus=2"))
    try:
        for lines, promised in commands():
            said = ""
            for line in lines:
                words = small(shlex.split(line)[1:], file, pictures)
                said += "".join(laptop.run(*words, timeout=500))
            missing = [text for text in promised if text not in said]
            assert not missing, f"{lines}\n{said}"
        assert Place.of(laptop.home / "first" / "imagenet-cert").exists("summary.json")
        assert "certified" in (laptop.home / "first" / "imagenet.html").read_text()
    finally:
        laptop.run("cluster", "down", file)
        hosts.close()
