"""What travels to a cluster: what the command needs, and nothing that only lies beside it."""

import subprocess
import sys
from pathlib import Path

import pytest

import rsray
from rsray.cluster.packaging import copy_all
from rsray.errors import UserError
from rsray_cli.cluster import typed_line as line_for_cluster

RSRAY = Path(rsray.__file__).parent


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_local_files_travel_and_other_words_stay(tmp_path):
    run = tmp_path / "my run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "model.safetensors").write_text("weights")
    (run / "checkpoints" / "big").write_text("x")
    settings = tmp_path / "best.yaml"
    settings.write_text("a: 1")
    words = ["certify", str(run), f"--config={settings}", "--data-root", "s3://b/data"]
    line = line_for_cluster(words)
    folder = copy_all(line, tmp_path / "package", print)
    there = line.there()
    assert there[0] == "certify" and there[4:] == ["--data-root", "s3://b/data"]
    assert (folder / there[1] / "model.safetensors").read_text() == "weights"
    assert there[2] == "--config" and (folder / there[3]).read_text() == "a: 1"
    assert not (folder / there[1] / "checkpoints").exists()
    done = subprocess.run(
        [sys.executable, "-c", "import rsray, rsray_cli; print(rsray.__file__, rsray_cli.__file__)"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(folder / p / "__init__.py") for p in ("rsray", "rsray_cli")]


def test_the_class_names_beside_hugging_faces_weights_travel(tmp_path):
    cache, elsewhere = tmp_path / "blobs", tmp_path / "elsewhere"
    for folder in (cache, elsewhere, tmp_path / "snapshot", tmp_path / "prepared"):
        folder.mkdir()
    (cache / "1a").write_text("weights")
    (cache / "2b").write_text("names")
    (elsewhere / "keys").write_text("secret")

    def linked(folder, config):
        weights = tmp_path / folder / "model.safetensors"
        weights.symlink_to(cache / "1a")
        weights.with_name("config.json").symlink_to(config)
        return line_for_cluster(["certify", str(weights)])

    line = linked("snapshot", cache / "2b")
    there = copy_all(line, tmp_path / "package", print) / line.there()[1]
    assert there.read_text() == "weights" and there.with_name("config.json").read_text() == "names"
    # Without it the names would not be compared there, unlike here.
    with pytest.raises(UserError, match=r"config\.json is a link out of .*prepared, .* copy the"):
        copy_all(linked("prepared", elsewhere / "keys"), tmp_path / "other", print)


def test_a_users_own_model_travels(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def factory(): ...")
    monkeypatch.syspath_prepend(tmp_path)
    line = line_for_cluster(["train", "--model", "mine:factory"])
    assert (copy_all(line, tmp_path / "package", print) / "mine.py").exists()
    with pytest.raises(UserError, match="'absent_module'"):
        copy_all(line_for_cluster(["train", "--model=absent_module:f"]), tmp_path / "other", print)


def test_all_that_rsray_reads_of_its_own_travels(tmp_path):
    """What the package data of the wheel are, bar its documents."""
    folder = copy_all(line_for_cluster(["train"]), tmp_path / "package", print)
    data = [
        file
        for end in ("*.js", "*.css", "*.sh", "*.txt", "*.yaml", "py.typed")
        for file in RSRAY.rglob(end)
    ]
    assert len(data) > 10 and {file.suffix for file in data} >= {
        ".js",
        ".css",
        ".sh",
        ".txt",
        ".yaml",
    }
    missing = [file for file in data if not (folder / "rsray" / file.relative_to(RSRAY)).exists()]
    assert missing == []


def test_too_much_to_send_is_said(tmp_path, monkeypatch):
    big = tmp_path / "big.safetensors"
    big.write_bytes(b"x" * 1000)
    monkeypatch.setattr("rsray.cluster.packaging.MOST_BYTES", 10)
    with pytest.raises(UserError, match="big.safetensors"):
        copy_all(line_for_cluster(["certify", str(big)]), tmp_path / "p", print)
    assert not (tmp_path / "p").exists(), "sizes are counted before anything is copied"


BESIDE = (
    ".env",
    ".git/config",
    "id_rsa",
    "notes.txt",
    "checkpoints/epoch-00001.pt",
    ".lock",
    "tensorboard/x",
)


def test_of_a_run_only_what_rsray_wrote_travels(tmp_path):
    run = tmp_path / "run"
    wanted = [
        "certificates.parquet",
        "certify.yaml",
        "counts/part-1.parquet",
        "model.safetensors",
        "run.yaml",
        "summary.json",
    ]
    for name in [*wanted, *BESIDE]:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x")
    (run / "loop").symlink_to(".")
    line = line_for_cluster(["recertify", str(run)])
    folder = copy_all(line, tmp_path / "package", print)
    assert files(folder / line.there()[1]) == wanted


@pytest.mark.parametrize("name", ["model.safetensors", "counts"])
def test_a_link_out_of_a_run_does_not_travel(name, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.yaml").write_text("a: 1")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "part-1.parquet").write_text("secret")
    target = "../secrets" if name == "counts" else "../secrets/part-1.parquet"
    (run / name).symlink_to(target)
    with pytest.raises(UserError, match=rf"{name} is a link out of"):
        copy_all(line_for_cluster(["certify", str(run)]), tmp_path / "p", print)
    assert not (tmp_path / "p").exists()


def test_a_file_of_a_run_that_is_a_loop_is_told_in_a_line(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").symlink_to("run.yaml")
    with pytest.raises(UserError, match="cannot send .*run.yaml"):
        copy_all(line_for_cluster(["certify", str(tmp_path / "run")]), tmp_path / "p", print)


def test_a_folder_that_is_no_result_stays(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "diary.txt").write_text("x")
    with pytest.raises(UserError, match="holds no results"):
        copy_all(line_for_cluster(["certify", str(tmp_path / "home")]), tmp_path / "p", print)
    with pytest.raises(UserError, match="it is no file"):
        copy_all(line_for_cluster(["certify", "/dev/null"]), tmp_path / "p", print)


def test_of_a_package_its_code_and_data_travel_and_are_said_first(tmp_path, monkeypatch):
    package = tmp_path / "code" / "minenet"
    sent = ["__init__.py", "data/means.npy", "net.py", "tokenizer.py"]
    stays = [
        ".env",
        ".git/config",
        "__pycache__/net.pyc",
        "api_token.json",
        "data/service-account.json",
        "deploy.pem",
        "big.bin",
        ".venv/lib/x.py",
        "env/pyvenv.cfg",
        "env/y.py",
        "secrets/db.yaml",
        "deploy.txt",
    ]
    for name in [*sent, *stays]:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("x")
    (tmp_path / "outside.py").write_text("secret = 1")
    (package / "deploy.txt").write_text("-----BEGIN RSA PRIVATE KEY-----\nabc")
    (package / "round.py").symlink_to("round.py")
    (package / "link.py").symlink_to("../../outside.py")
    (package / "loop").symlink_to("..")
    (package / "data" / "inside.npy").symlink_to("means.npy")
    monkeypatch.syspath_prepend(tmp_path / "code")
    said = []
    line = line_for_cluster(["train", "--model", "minenet.net:factory"])
    folder = copy_all(line, tmp_path / "package", said.append)
    assert files(folder / "minenet") == sorted([*sent, "data/inside.npy"])
    assert "minenet/net.py" in said[0] and said[0].startswith("sending minenet: ")
    assert said[1].startswith("left out of minenet: ") and "link.py" in said[1]
    assert all(name in said[1] for name in ("deploy.pem", "big.bin", "round.py", "deploy.txt"))


def test_a_package_that_is_too_large_is_refused_before_it_is_copied(tmp_path, monkeypatch):
    (tmp_path / "largenet").mkdir()
    (tmp_path / "largenet" / "__init__.py").write_text("")
    (tmp_path / "largenet" / "weights.npy").write_bytes(b"x" * 3_000_000)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("rsray.cluster.packaging.MOST_BYTES", 2_500_000)
    with pytest.raises(UserError, match="weights.npy"):
        copy_all(line_for_cluster(["train", "--model", "largenet:f"]), tmp_path / "p", print)
    assert not (tmp_path / "p").exists()


def test_what_every_environment_of_rsray_has_does_not_travel(tmp_path):
    line = line_for_cluster(["certify", "x", "--model", "torchvision.models:resnet18"])
    folder = copy_all(line, tmp_path / "package", lambda text: pytest.fail(text))
    assert sorted(path.name for path in folder.iterdir()) == ["rsray", "rsray_cli"]
