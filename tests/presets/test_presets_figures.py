"""Every published figure and cost, against the text of the papers: each row has its preset."""

import re

import pytest
from shared_files import SHARED

from rsray.presets import preset, presets, train_config

SIGMAS = ("0.25", "0.50", "1.00")
OBJECTIVE = {"Cohen": "gaussian", "Salman": "smoothadv", "MACER": "macer"}
ABLATION = {10: "num_draws", 11: "trade_off", 12: "hinge", 13: "inverse_temperature"}
DATASET = {1: "cifar10", 2: "imagenet", 6: "mnist", 7: "svhn"}


def text(name):
    file = SHARED / name
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    return file.read_text(encoding="utf-8")


def tables(paper, mark):
    """Return the lines of each table by number, from its caption to the next one's."""
    parts = re.split(rf"Table (\d+){mark} ", text(f"papers/{paper}"))
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return {int(number): body.splitlines() for number, body in pairs}


def macer_rows(number):
    """Yield (sigma, label, cells) of a table of the MACER paper; merged cells carry sigma down."""
    sigma = None
    for line in tables("macer-iclr2020.txt", ":")[number]:
        cells = [cell for cell in re.sub(r"</?b>|\*", "", line).split("\t") if cell.strip()]
        if len(cells) < 5 or not re.fullmatch(r"[0-9.]+", cells[-1]):
            continue
        if cells[0] in SIGMAS:
            sigma = cells.pop(0)
        yield sigma, cells[0], cells[1:]


def macer_cases():
    """Return (table, sigma, ACR, settings) of every row that a preset reproduces."""
    cases = []
    for number, dataset in DATASET.items():
        for sigma, label, cells in macer_rows(number):
            objective = OBJECTIVE[label.split("-")[0]]
            cases.append((number, sigma, cells[-1], {"objective": objective, "dataset": dataset}))
    for sigma, label, cells in macer_rows(8):
        if label == "MACER":
            settings = {"objective": "macer", "dataset": "cifar10", "epochs": int(cells[-2])}
            cases.append((8, sigma, cells[-3], settings))
    base = {"num_draws": 16, "trade_off": 12, "hinge": 8, "inverse_temperature": 16}
    base |= {"objective": "macer", "dataset": "cifar10", "epochs": 440}
    for number, key in ABLATION.items():
        for sigma, label, cells in macer_rows(number):
            acr = cells[-1] if re.fullmatch(r"0\.\d{3}", cells[-1]) else None
            cases.append((number, sigma, acr, {**base, key: float(label)}))
    return cases


def test_every_row_of_macers_tables():
    cases = macer_cases()
    counts = [sum(case[0] == number for case in cases) for number in (1, 2, 6, 7, 8)]
    assert counts == [9, 9, 6, 4, 4]
    counts = [sum(case[0] == number for case in cases) for number in ABLATION]
    assert counts == [10, 12, 16, 14], "tables 10 to 13"
    missing = [case for case in cases if case[2] is None]
    assert [(case[0], case[1]) for case in missing] == [(13, "0.50")], "lost in the text"
    for number, sigma, acr, settings in cases:
        wanted = {**settings, "sigma": float(sigma)}
        found = [
            entry
            for entry in presets().values()
            if all(entry.settings.get(key) == value for key, value in wanted.items())
            and entry.acr == acr
        ]
        assert found, (number, sigma, acr, settings)


def test_every_figure_said_to_be_macers_is_in_that_row():
    cases = macer_cases()
    checked = 0
    for entry in presets().values():
        if not (entry.source or "").startswith("MACER"):
            continue
        for number in map(int, re.findall(r"\d+", entry.source)):
            rows = [
                acr
                for table, sigma, acr, settings in cases
                if table == number
                and float(sigma) == entry.settings["sigma"]
                and all(entry.settings.get(key) == value for key, value in settings.items())
            ]
            assert entry.acr in rows, entry.name
            checked += 1
    assert checked > 70


def test_costs_of_macers_tables_3_and_8():
    hours, dataset = {}, ""
    for line in tables("macer-iclr2020.txt", ":")[3]:
        cells = line.split("\t")
        if len(cells) == 6 and re.fullmatch(r"[0-9.]+", cells[4]):
            dataset = {"Cifar-10": "cifar10", "ImageNet": "imagenet"}.get(cells[0], dataset)
            hours[dataset, OBJECTIVE[cells[1].split("-")[0]]] = float(cells[4])
    assert len(hours) == 6
    for (dataset, objective), expected in hours.items():
        cost = preset(f"{objective}-{dataset}-0.25").cost
        assert float(cost.split()[0]) == pytest.approx(expected, rel=0.01) and "P100" in cost
        assert "estimated" not in cost and ("4 P100" in cost) == (dataset == "imagenet")
    short = {cells[-1] for _, _, cells in macer_rows(8) if cells[-2] == "150"}
    assert short == {"82.92", "21.00"}
    assert preset("macer-cifar10-0.50-short").cost == "21 h on a P100"


SODM_MODELS = [  # table, its row, preset (name before and after sigma)
    (1, "Ours", "sodm-cifar10-", ""),
    (1, "Salman-PGD10-255", "smoothadv-cifar10-", "-pgd10-255"),
    (1, "Salman-PGD10-64", "smoothadv-cifar10-", "-pgd10-64"),
    (2, "Ours", "sodm-imagenet-", ""),
    (2, "Salman-PGD1-255", "smoothadv-imagenet-", "-pgd1-255"),
    (2, "Salman-PGD1-512", "smoothadv-imagenet-", "-pgd1-512"),
    (3, "Cohen", "gaussian-mini-imagenet50-", ""),
    (3, "Ours", "sodm-mini-imagenet50-", ""),
]


@pytest.mark.parametrize(("number", "label", "before", "after"), SODM_MODELS)
def test_acrs_of_sodms_tables(number, label, before, after):
    lines = tables("sodm-2021.txt", r"\.")[number]
    acrs = [line.split("\t")[-1] for line in lines if f"\t{label}\t0." in f"\t{line}"]
    assert len(acrs) >= 2
    for sigma, acr in zip(SIGMAS, acrs, strict=False):  # some rows of sigma 1.00 fell apart
        entry = preset(f"{before}{sigma}{after}")
        assert (entry.acr, entry.source) == (acr, f"SODM table {number}")


SODM_COSTS = {  # the row's first two cells in table 4
    "Ours\t310.3": "sodm-cifar10-0.25",
    "Ours\t3996.1": "sodm-imagenet-0.25",
    "Ours\t488.2": "sodm-mini-imagenet50-0.25",
    "MACER-270\t183.3": "macer-cifar10-0.25-270",
    "Cohen\t20.6": "gaussian-cifar10-0.25-90",
    "Cohen\t128.6": "gaussian-mini-imagenet50-0.25",
    "Salmam-PGD10steps\t1305.5": "smoothadv-cifar10-0.25-pgd10-255",
    "Salmam-PGD1step\t8973.0": "smoothadv-imagenet-0.25-pgd1-255",
}


@pytest.mark.parametrize(("label", "name"), SODM_COSTS.items())
def test_costs_of_sodms_table_4(label, name):
    (line,) = [line for line in tables("sodm-2021.txt", r"\.")[4] if label in line]
    *_, epochs, hours, acr = line.split("\t")
    cost, config = preset(name).cost, train_config({}, preset_name=name)
    assert float(cost.split()[0]) == pytest.approx(float(hours), rel=0.04)
    assert cost.endswith("on 2 2080 Ti" if config.dataset == "cifar10" else "on 4 2080 Ti")
    assert config.epochs == int(epochs)
    if label != "Cohen\t20.6":  # that figure is on other images than MACER's
        assert preset(name).acr == acr


def test_macer_in_sodms_table_5():
    (row,) = [
        line for line in tables("sodm-2021.txt", r"\.")[5] if "MACER-90" in line and "\t" in line
    ]
    entry = preset("macer-cifar10-0.25-90")
    assert (entry.acr, entry.source) == (row.split("\t")[-1], "SODM table 5")
    assert (entry.settings["epochs"], entry.settings["lr_drops"]) == (90, [30, 60])


def test_adres_table():
    rows = re.findall(
        r"\$\\sigma = ([0-9.]+), \\lambda = ([0-9.]+)\$\t([0-9.\t]+)",
        text("papers/adre-tcertify-2020.txt"),
    )
    assert len(rows) == 12 + 6
    for index, (sigma, weight, accuracies) in enumerate(rows):
        dataset = "cifar10" if index < 12 else "imagenet"
        entry = preset(f"adre-{dataset}-{sigma}-lambda{float(weight):g}")
        values = [float(value) for value in accuracies.split()]
        assert len(entry.certified) == 2 and entry.acr is None
        for radius, accuracy in entry.certified.items():
            assert accuracy == values[round(radius / 0.25)], entry.name
        assert entry.source == "ADRE table 1"


def test_methods_figures():
    methods = text("METHODS.md")
    rows = re.findall(
        r"^\| (\d\.\d\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \(lambda (\d+)\)",
        methods,
        re.MULTILINE,
    )
    assert [row[0] for row in rows] == list(SIGMAS)
    objectives = ("gaussian", "stability", "smoothadv", "macer", "consistency")
    for sigma, *acrs, weight in rows:
        for objective, acr in zip(objectives, acrs, strict=True):
            entry = preset(f"{objective}-mnist-{sigma}" + ("-90" if objective == "macer" else ""))
            assert (entry.acr, entry.source) == (acr, "public 90-epoch recipe")
        assert preset(f"consistency-mnist-{sigma}").settings["trade_off"] == float(weight)
    for objective in ("gaussian", "consistency", "smoothmix"):
        (acrs,) = re.findall(rf"{objective} (\.\d+/\.\d+/\.\d+)", methods)
        for sigma, acr in zip(SIGMAS, acrs.split("/"), strict=True):
            entry = preset(f"{objective}-cifar10-{sigma}")
            assert (entry.acr, entry.source) == (f"0{acr}", "all 10000 images")
