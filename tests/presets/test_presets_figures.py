"""Every published figure and cost, against the text of the papers: each row has its preset."""

import re

import pytest
from shared_files import SHARED

from rsray.presets import preset, presets, train_config

SIGMAS = ("0.25", "0.50", "1.00")
OBJECTIVE = {"Cohen": "gaussian", "Salman": "smoothadv", "MACER": "macer"}
ABLATION = {10: "num_draws", 11: "trade_off", 12: "hinge", 13: "inverse_temperature"}
LOST = "0.696"  # of table 13 at sigma 0.50 and beta 1; the text at hand lost this cell
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
            acr = cells[-1] if re.fullmatch(r"0\.\d{3}", cells[-1]) else LOST
            cases.append((number, sigma, acr, {**base, key: float(label)}))
    return cases


def test_every_row_of_macers_tables():
    cases = macer_cases()
    counts = [sum(case[0] == number for case in cases) for number in (1, 2, 6, 7, 8)]
    assert counts == [9, 9, 6, 4, 4]
    counts = [sum(case[0] == number for case in cases) for number in ABLATION]
    assert counts == [10, 12, 16, 14], "tables 10 to 13"
    lost = [case for case in cases if case[2] == LOST]
    assert [(case[0], case[1]) for case in lost] == [(13, "0.50")], "lost in the text"
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


def certified_cells(cells, radii):
    """Return {radius: accuracy} of a table's cells, which end where nothing is certified."""
    return {r: float(c) for r, c in zip(radii, cells, strict=False) if float(c) > 0}


def cells_of_log(percent):
    """Return what `certified_cells` does of a line of reference/anchors.txt."""
    radii = [*QUARTERS[:9], 2.5, 3.0, 3.5]
    return certified_cells([float(p) / 100 for p in percent.split()], radii)


def logged_preset(name, acr, percent, source):
    """Return a preset after comparing its figures with those of a public log."""
    entry = preset(name)
    assert (entry.acr, entry.source) == (acr, source)
    assert entry.certified == pytest.approx(cells_of_log(percent))
    return entry


QUARTERS = [0.25 * i for i in range(16)]
HALVES = [0.5 * i for i in range(8)]


def test_certified_accuracies_of_macers_tables():
    checked = 0
    for number in (*DATASET, *ABLATION, 8):
        for sigma, label, cells in macer_rows(number):
            if number == 8 and label != "MACER":
                continue
            if number in ABLATION:
                key, value = ABLATION[number], float(label)
            elif number == 8:
                key, value = "epochs", int(cells[-2])
            else:
                key, value = "objective", OBJECTIVE[label.split("-")[0]]
            found = [
                entry
                for entry in presets().values()
                if number in map(int, re.findall(r"\d+", entry.source or ""))
                and (entry.source or "").startswith("MACER")
                and (entry.settings["sigma"], entry.settings[key]) == (float(sigma), value)
                and entry.settings["objective"] == (value if key == "objective" else "macer")
            ]
            end = {8: 8, 2: 7}.get(number, 10)
            expected = certified_cells(cells[:end], HALVES if number == 2 else QUARTERS)
            for entry in found:
                assert entry.certified == expected, entry.name
            checked += len(found)
    assert checked > 70


@pytest.mark.parametrize(("number", "label", "before", "after"), SODM_MODELS[:6])
def test_certified_accuracies_of_sodms_tables(number, label, before, after):
    lines = tables("sodm-2021.txt", r"\.")[number]
    rows = [line.split("\t") for line in lines if f"\t{label}\t0." in f"\t{line}"]
    radii = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5] if number == 1 else HALVES[:4]
    for sigma, row in zip(SIGMAS, rows, strict=False):
        cells = row[-len(radii) - 1 : -1]
        assert preset(f"{before}{sigma}{after}").certified == certified_cells(cells, radii)


def test_the_rows_of_sodms_table_1_that_fell_apart():
    """At sigma 1.00 the text has the last two rows column by column, the radii first."""
    lines = "\n".join(tables("sodm-2021.txt", r"\.")[1])
    pairs = re.findall(r"^(0\.\d\d)\n\n(0\.\d\d)$", lines, re.MULTILINE)[:9]
    acrs, at_0, at_25 = pairs[-3:]
    columns = [at_0, at_25, *pairs[:-3]]
    radii = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5]
    for i, name in enumerate(["smoothadv-cifar10-1.00-pgd10-64", "sodm-cifar10-1.00"]):
        cells = [pair[i] for pair in columns]
        assert (preset(name).certified, preset(name).acr) == (
            certified_cells(cells, radii),
            acrs[i],
        )


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
        assert entry.acr is None
        assert entry.certified == certified_cells(values, QUARTERS), entry.name
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
    (plain,) = re.findall(r"smoothmix (\.\d+/\.\d+)/\(about \.\d+ unverified\)", methods)
    figures = {"smoothmix": plain}
    for objective in ("gaussian", "consistency"):
        (figures[objective],) = re.findall(rf"(?<!\+ ){objective} (\.\d+/\.\d+/\.\d+)", methods)
    for objective, acrs in figures.items():
        for sigma, acr in zip(SIGMAS, acrs.split("/"), strict=False):
            entry = preset(f"{objective}-cifar10-{sigma}")
            assert (entry.acr, entry.source) == (f"0{acr}", "all 10000 images")
    (acrs,) = re.findall(r"smoothadv \+ consistency (\.\d+/\.\d+/\.\d+)", methods)
    for sigma, acr in zip(SIGMAS, acrs.split("/"), strict=True):
        assert preset(f"smoothadv+consistency-cifar10-{sigma}").acr == f"0{acr}"
    assert preset("smoothmix-cifar10-1.00").figure == "", "only the other variant's is published"
    (others,) = re.findall(r"one-step adversary \(mix_step 1\) -/([\d.]+/[\d.]+)", methods)
    for sigma, acr in zip(SIGMAS[1:], others.split("/"), strict=True):
        entry = preset(f"smoothmix-cifar10-{sigma}-onestep")
        assert (entry.acr, entry.settings["mix_step"]) == (f"0{acr}", 1) and entry.differs


def test_figures_of_public_logs_over_all_images():
    logs = {}
    for line in text("reference/anchors.txt").splitlines():
        found = re.match(r"alinlab\|data/cifar10/noise_([\d.]+)/(\w+)/.*ACR ([\d.]+)\| (.*)", line)
        if found:
            logs[f"{float(found[1]):.2f}", found[2]] = found[3], found[4].split()
    radii = [*QUARTERS[:9], 2.5, 3.0, 3.5]
    checked = 0
    for sigma in SIGMAS:
        for objective, log in (
            ("gaussian", "cohen"), ("consistency", "consistency"), ("smoothmix", "smoothmix"),
            ("stability", "stab"),
        ):  # fmt: skip
            entry = preset(f"{objective}-cifar10-{sigma}")
            if not entry.certified:
                continue
            acr, percent = logs[sigma, log]
            assert float(entry.acr) == pytest.approx(float(acr), abs=0.0006)
            expected = certified_cells([float(p) / 100 for p in percent], radii)
            assert entry.certified == pytest.approx(expected)
            checked += 1
    assert checked == 10, "of smoothmix the log at 0.50 is the other variant's"
    found = re.findall(
        r"(alinlab.data/cifar10/noise_0.5|eth-sri.*cifar10)/smoothmix/noise_([\d.]+)\.tsv.*\| (.*)",
        text("reference/anchors.txt"),
    )
    for sigma, log in (("0.50", "alinlab"), ("1.00", "eth-sri")):
        (percent,) = [p for a, s, p in found if a.startswith(log) and float(s) == float(sigma)]
        known = preset(f"smoothmix-cifar10-{sigma}-onestep").certified
        assert known == pytest.approx(cells_of_log(percent))


def test_figures_of_fashion_mnist_are_those_of_the_public_logs():
    objectives = {"cohen": "gaussian", "stab": "stability", "salman": "smoothadv"}
    checked = 0
    for line in text("reference/anchors.txt").splitlines():
        found = re.match(
            r"alinlab\|data/fmnist/noise_([\d.]+)/([\w-]+)/.*ACR ([\d.]+)\| (.*)", line
        )
        if not found:
            continue
        sigma, log, acr, percent = f"{float(found[1]):.2f}", *found.groups()[1:]
        log = log.replace("cat-rs", "catrs")
        name = f"{objectives.get(log, log)}-fashion-mnist-{sigma}"
        logged_preset(name, acr, percent, "all 10000 images")
        checked += 1
    assert checked == 21
    assert preset("catrs-self-fashion-mnist-0.50").figure == "", "it is another method"


def test_figures_of_catrs_are_those_of_the_public_logs():
    found = re.findall(
        r"alinlab\|data/(cifar10|mnist)/noise_([\d.]+)/(?:cat-rs|noise_).*ACR ([\d.]+)\| (.*)",
        text("reference/anchors.txt"),
    )
    assert len(found) == 6
    for dataset, sigma, acr, percent in found:
        logged_preset(f"catrs-{dataset}-{float(sigma):.2f}", acr, percent, "all 10000 images")
    rows = [line.split("\t") for line in text("reference/anchors_mnist.tsv").splitlines()]
    for method, sigma, _, acr, *_ in rows:
        if method == "cat-rs":
            assert preset(f"catrs-mnist-{sigma}").acr == acr


def test_easys_figures_are_those_of_the_public_logs():
    found = re.findall(
        r"eth-sri\|data/certify/cifar10/ours/noise_([\d.]+)\.tsv\|.*ACR ([\d.]+)\| (.*)",
        text("reference/anchors.txt"),
    )
    assert len(found) == 3
    for sigma, acr, percent in found:
        entry = preset(f"easy-cifar10-{float(sigma):.2f}")
        assert float(entry.acr) == pytest.approx(float(acr), abs=0.0005)
        assert entry.certified == pytest.approx(cells_of_log(percent))


def test_figures_on_imagenet_are_those_of_the_public_logs():
    found = re.findall(
        r"eth-sri\|data/certify/imagenet/(catrs|consistency|ours|smoothmix)/noise_([\d.]+\d).*"
        r"n=500.*ACR ([\d.]+)\| (.*)",
        text("reference/anchors.txt"),
    )
    assert len(found) == 8
    for method, sigma, acr, percent in found:
        name = f"{method.replace('ours', 'easy')}-imagenet-{float(sigma):.2f}"
        entry = logged_preset(name, acr, percent, "every 100th ImageNet image")
        assert entry.certify == "--skip 100" and entry.differs


def test_smoothmix_on_mnist():
    rows = [line.split("\t") for line in text("reference/anchors_mnist.tsv").splitlines()]
    for sigma, steps in (("0.25", 2), ("0.50", 4), ("1.00", 8)):
        method = f"smoothmix/smix_1.0_{steps}_m0/tau_5.0/num_4"
        ((_, _, runs, acr, *_),) = [row for row in rows if row[:2] == [method, sigma]]
        entry = preset(f"smoothmix-mnist-{sigma}")
        assert runs == "6" and float(entry.acr) == pytest.approx(float(acr), abs=0.0005001)
        weight = 1.0 if sigma == "0.50" else 5.0
        method = f"smoothmix/smix_1.0_{steps}_m1/tau_{weight}/num_4"
        ((_, _, runs, acr, *_),) = [row for row in rows if row[:2] == [method, sigma]]
        entry = preset(f"smoothmix-mnist-{sigma}-onestep")
        assert runs == "6" and float(entry.acr) == pytest.approx(float(acr), abs=0.0005001)
        method = "consistency/salman_255.0_10_10/num_4/lbd_1.0/eta_0."
        ((_, _, runs, acr, *_),) = [row for row in rows if row[:2] == [method, sigma]]
        entry = preset(f"smoothadv+consistency-mnist-{sigma}")
        assert runs == "5" and float(entry.acr) == pytest.approx(float(acr), abs=0.0005001)
