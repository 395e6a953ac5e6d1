"""The HTML report: that it is whole and harmless, and what a real browser makes of it."""

import base64
import csv
import hashlib
import html
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib import image as picture_file

from chromium import chromium_page
from fmx.reporting.html_report import html_report
from fmx.reporting.leaderboard import leaderboard
from fmx.reporting.leaderboard_text import to_csv
from run_directories import make_run, wrong_at

EVIL = "<script>window.evil=1</script>\"'><img src=x onerror=evil()>"
SHARES = ["val_accuracy", "test_accuracy"]


def make_runs(folder):
    """Six seeds of two configurations, one single seed, one failed run; names that would like to be markup."""
    rng = np.random.default_rng(0)
    for model, val in (("small", 0.8), ("large", 0.9)):
        for seed in (1, 2, 3):
            said = wrong_at(rng.choice(30, 4 if model == "small" else 2, replace=False))
            settings = {"vars.name": f"{EVIL} {{{{7*7}}}} %{{x}}" if model == "small" else "tame"}
            path = make_run(
                folder / f"{model} '\"<b> {seed}", said=said, val=val + seed / 100, seed=seed, model=model,
                settings=settings, names=[EVIL, "b", "c"], params=1000 if model == "small" else 50_000,
            )  # fmt: skip
            (path / "figures").mkdir()
            for name in ("confusion_matrix", "mistakes"):
                picture_file.imsave(path / "figures" / f"{name}.png", np.full((40, 60), seed))
    make_run(folder / "single", val=None, selected_on="last", settings={"vars.name": "alone"})
    make_run(folder / "failed", status="failed", error=EVIL, settings={"vars.name": "lost"})
    return folder


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = make_runs(tmp_path_factory.mktemp("runs"))
    return leaderboard(sorted(folder.iterdir()))


@pytest.fixture(scope="module")
def page(board):
    return html_report(board)


@pytest.fixture(scope="module")
def browser():
    with chromium_page() as tab:
        yield tab


@pytest.fixture
def opened(browser, page, tmp_path):
    file = tmp_path / "report 'x'.html"
    file.write_text(page, encoding="utf-8")

    def open_page(fragment="", **how):
        browser.open("about:blank")
        browser.console.clear()
        browser.requests.clear()
        browser.open(file.as_uri() + fragment, **how)
        return browser

    return open_page


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def scripts_of(page):
    return re.findall(r"<script>(.*?)</script>", page, re.DOTALL)


def charts_of(page):
    return json.loads(re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)[1])


def csv_of(board):
    return [row for row in csv.DictReader(io.StringIO(to_csv(board))) if row["status"] == "completed"]


def test_names_are_text_and_nothing_else(page):
    elements = Elements(page).found
    tags = [tag for tag, _ in elements]
    assert tags.count("script") == 3
    assert {attributes["src"].partition(",")[0] for tag, attributes in elements if tag == "img"} == {
        "data:image/png;base64"
    }
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert not [tag for tag, attributes in elements if {"href", "src"} & set(attributes) and tag not in {"img", "link"}]
    assert page.count(html.escape(EVIL).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")) >= 2


def test_the_policy_allows_the_two_scripts_and_no_address(page):
    policy = next(
        attributes["content"] for tag, attributes in Elements(page).found if attributes.get("http-equiv")
    )  # fmt: skip
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts_of(page)]
    assert len(hashes) == 2
    assert f"script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}' ;" in policy
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_plotly_is_embedded_once_and_the_page_is_not_much_larger(page):
    plotly, ours = scripts_of(page)
    assert len(plotly) > 1_000_000
    assert page.count(plotly) == 1
    assert len(page) - len(plotly) < 60_000
    assert "http" not in ours


def test_the_charts_have_the_figures_of_the_table(page, board):
    for drawn, row in zip(charts_of(page)["parts"][0]["rows"], csv_of(board), strict=True):
        for name, key in [("test", "test_accuracy"), ("val", "val_accuracy")]:
            if row[f"{key}_mean"]:
                shown = [drawn[name][part] for part in ("mean", "std", "low", "high")]
                assert shown == [float(row[f"{key}_{part}"] or "nan") if row[f"{key}_{part}"] else None
                                 for part in ("mean", "std", "low", "high")]  # fmt: skip
        assert drawn["params"] == int(row["params"])


def test_curves_are_means_and_deviations_over_seeds(page, board):
    drawn = {row["label"]: row["curves"] for row in charts_of(page)["parts"][0]["rows"]}
    row = board.rows[0]
    curves = [np.genfromtxt(run.run.path / "history.csv", delimiter=",", names=True) for run in row.runs]
    values = np.stack([curve["valaccuracy"] for curve in curves])
    assert drawn[row.label]["val/accuracy"]["epoch"] == [1, 2, 3]
    np.testing.assert_allclose(drawn[row.label]["val/accuracy"]["mean"], values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(drawn[row.label]["val/accuracy"]["std"], values.std(0, ddof=1), rtol=1e-9)


def test_several_validations_an_epoch_and_uneven_lengths_are_drawn(tmp_path):
    for seed, num in ((1, 4), (2, 6)):
        path = make_run(tmp_path / str(seed), seed=seed)
        lines = [f"{(k + 1) // 2},{10 * k},0.1,1,nan,{k},," for k in range(1, num + 1)]
        header = "epoch,step,lr,train/loss,train/accuracy,val/loss,val/accuracy,seconds"
        (path / "history.csv").write_text("\n".join([header, *lines, lines[-1]]) + "\n")
    make_run(tmp_path / "3", seed=3)
    (tmp_path / "3" / "history.csv").write_bytes(b"\xff\x00nothing")
    (drawn,) = charts_of(html_report(leaderboard(sorted(tmp_path.iterdir()))))["parts"][0]["rows"]
    assert drawn["curves"]["val/loss"]["epoch"] == [0.5, 1, 1.5, 2, 2.5, 3]
    for seed in (1, 2):  # whose last epochs went on after their last validations
        record = tmp_path / str(seed) / "run.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"timing": {"steps_per_epoch": 25}}))
    (known,) = charts_of(html_report(leaderboard(sorted(tmp_path.iterdir()))))["parts"][0]["rows"]
    assert known["curves"]["val/loss"]["epoch"] == [0.4, 0.8, 1.2, 1.6, 2, 2.4]
    assert drawn["curves"]["val/loss"]["std"] == [0, 0, 0, 0, None, None]
    assert set(drawn["curves"]) == {"val/loss", "train/loss"}


def test_figures_that_are_no_pictures_are_left_out(tmp_path):
    path = make_run(tmp_path / "a")
    (path / "figures").mkdir()
    (path / "figures" / "mistakes.png").write_text("<svg onload=evil()>")
    page = html_report(leaderboard([path]))
    assert "The run has no figures" in page
    assert "<svg onload" not in page


@pytest.mark.browser
def test_the_table_in_the_browser_is_the_csv(opened, board):
    tab = opened()
    rows = tab.evaluate(
        "[...document.querySelectorAll('#leaderboard tbody tr')].map(row =>"
        " [...row.cells].map(cell => [cell.textContent, cell.dataset.value]))"
    )
    expected = csv_of(board)
    assert len(rows) == len(expected) == 3
    keys = [column.key for column in board.columns]
    for cells, row in zip(rows, expected, strict=True):
        texts, values = zip(*cells, strict=True)
        assert texts[0] == (row["rank"] or "–")
        assert texts[5] == row["n"]
        assert list(texts[6 : 6 + len(keys)]) == [row[key] for key in keys]
        figures = [*values[1:5], *values[6 + len(keys) :]]
        val, val_low, test, test_low, f1, params, seconds = (v and float(v) for v in figures)
        shown = [val, val_low, test, test_low, f1, params, seconds]
        columns = [
            "val_accuracy_mean", "val_accuracy_low", "test_accuracy_mean", "test_accuracy_low", "test_macro_f1_mean",
            "params", "train_seconds_mean",
        ]  # fmt: skip
        assert shown == [float(row[column]) if row[column] else None for column in columns]
        assert texts[3].startswith(f"{100 * float(row['test_accuracy_mean']):.2f}")
    others = tab.evaluate("[...document.querySelectorAll('#unfinished tbody tr')].map(row => row.cells[1].textContent)")
    assert others == ["failed"]


@pytest.mark.browser
def test_nothing_is_asked_for_nothing_complains_and_no_name_runs(opened):
    tab = opened(height=4000)
    tab.evaluate("new Promise(done => setTimeout(done, 500))")
    assert tab.console == []
    assert [url.partition(":")[0] for url in tab.requests if not url.startswith("data:")] == ["file"]
    assert tab.evaluate("window.evil") is None
    assert tab.evaluate("document.querySelectorAll('#leaderboard script, .chart script, .chart img').length") == 0


@pytest.mark.browser
def test_every_chart_is_drawn_with_the_names_as_they_are(opened, board):
    tab = opened(height=4000)
    drawn = {name: tab.evaluate(f"document.querySelectorAll('#{name} .scatterlayer .trace').length")
             for name in ("accuracies", "curves", "against-time", "against-params")}  # fmt: skip
    assert drawn == {"accuracies": 3 * 3 - 1, "curves": 2 + 2 + 1, "against-time": 3, "against-params": 3}
    labels = tab.evaluate(
        "[...document.querySelectorAll('#accuracies .yaxislayer-above text')].map(text => text.textContent)"
    )
    assert labels[0] == board.rows[0].label
    assert any("<script>" in label for label in labels)
    widths = tab.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert widths == [60, 60]
    overflow = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0


@pytest.mark.browser
def test_a_click_sorts_and_a_second_click_turns_it_round(opened, board):
    tab = opened()
    heads = tab.evaluate("[...document.querySelectorAll('#leaderboard th')].map(head => head.textContent)")
    column = heads.index("test accuracy %")
    read = (
        f"[...document.querySelectorAll('#leaderboard tbody tr')].map(row => Number(row.cells[{column}].dataset.value))"
    )
    click = f"document.querySelectorAll('#leaderboard th button')[{column}].click()"
    means = sorted(row.test_accuracy.mean for row in board.rows)
    tab.evaluate(click)
    assert tab.evaluate(read) == means[::-1]
    assert tab.evaluate(f"document.querySelectorAll('#leaderboard th')[{column}].ariaSort") == "descending"
    tab.evaluate(click)
    assert tab.evaluate(read) == means
    assert tab.evaluate("location.hash") == f"#sort={column + 1}"
    tab.evaluate("document.querySelectorAll('#leaderboard th button')[0].click()")
    assert tab.evaluate(
        "[...document.querySelectorAll('#leaderboard tbody td:first-child')].map(c => c.textContent)"
    ) == ["1", "2", "–"]
    tab = opened(f"#sort=-{column + 1}")
    assert tab.evaluate(read) == means[::-1]
    assert tab.console == []


@pytest.mark.browser
def test_a_long_table_is_shown_by_pages_and_ends_where_the_page_says(browser, tmp_path, monkeypatch):
    for number in range(260):
        make_run(tmp_path / str(number), settings={"optim.lr": number / 1000}, val=0.5 + number / 1000, epochs=1)
    monkeypatch.setattr("fmx.reporting.html_report.MAX_ROWS", 250)
    (tmp_path / "report.html").write_text(html_report(leaderboard(sorted(tmp_path.iterdir()))), encoding="utf-8")
    browser.console.clear()
    browser.open((tmp_path / "report.html").as_uri())
    ranks = "[...document.querySelectorAll('#leaderboard tbody tr')].filter(row => row.offsetHeight)"
    ranks = f"{ranks}.map(row => Number(row.cells[0].textContent))"
    said = "document.querySelector('#leaderboard-pages span').textContent"
    press = "document.querySelectorAll('#leaderboard-pages button')[{}].click()".format
    assert (browser.evaluate(ranks), browser.evaluate(said)) == ([*range(1, 101)], "rows 1 to 100 of 250")
    for _ in range(3):  # the last has no effect: the button is disabled
        browser.evaluate(press(1))
    assert (browser.evaluate(ranks), browser.evaluate(said)) == ([*range(201, 251)], "rows 201 to 250 of 250")
    browser.evaluate(press(0))
    browser.evaluate("document.querySelectorAll('#leaderboard th button')[0].click()")  # sorted by rank already
    browser.evaluate("document.querySelectorAll('#leaderboard th button')[0].click()")
    assert browser.evaluate(ranks) == [*range(150, 50, -1)]
    browser.evaluate(press(2))
    assert browser.evaluate(ranks) == [*range(250, 0, -1)]
    page = browser.evaluate("document.body.textContent")
    assert "The best 250 of 260 configurations: the rest is left out of this page." in page
    assert "The first 16 of 260 are drawn." in page
    assert browser.console == []


@pytest.mark.browser
def test_a_button_shows_another_curve_and_the_dark_page_is_dark(opened, tmp_path):
    tab = opened(dark=True)
    tab.evaluate(
        "[...document.querySelectorAll('#curve-choice button')].find(b => b.textContent == 'training loss').click()"
    )
    assert tab.evaluate("document.querySelector('#curves .ytitle').textContent") == "training loss"
    assert tab.evaluate("document.querySelector('#curve-choice [aria-pressed=true]').textContent") == "training loss"
    tab.screenshot(tmp_path / "dark.png")
    dark = picture_file.imread(tmp_path / "dark.png")[..., :3]
    assert np.median(dark) < 0.2
    tab.evaluate("document.getElementById('curves').scrollIntoView()")
    text = tab.evaluate("getComputedStyle(document.querySelector('#curves .xtitle')).fill")
    assert min(map(int, re.findall(r"\d+", text)[:3])) > 150


def make_mixed(folder):
    """What a folder of all runs holds: two data sets, many settings that differ, pruned trials of a search."""
    watch = {
        "callbacks.pruning._target_": "fmx.sweeps.search.pruning.Pruning",
        "callbacks.pruning.monitor": "val/accuracy",
    }
    knobs = {f"optim.quite_long_name_{n}": n for n in range(12)}
    for place in range(5):
        settings = {key: value * (1 + place) for key, value in knobs.items()} | {"augment.kind": "flip"}
        settings |= watch | {"trainer.max_epochs": 40 if place < 4 else 8, "vars.path": f"{'long/' * 12}{place}/end"}
        for seed in (1, 2):
            make_run(folder / f"pets{place}{seed}", model="large", seed=seed, settings=settings,
                     val=0.9 - place / 100 - seed / 1000)  # fmt: skip
    data = {"name": "cars", "sizes": {"val": 20}, "fingerprint": "c" * 32, "split_fingerprint": "a" * 32}
    for place, model in enumerate(("small", "large")):
        make_run(folder / f"cars{place}", model=model, data=data, val=0.8, settings={"data.name": "cars"})
    facts = {"epoch": 1, "metric": "val/accuracy", "value": 0.1}
    make_run(folder / "pruned", status="interrupted", settings=watch, pruned=facts,
             error="pruned after epoch 1: val/accuracy 0.1")  # fmt: skip
    return folder


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 1920])
def test_the_page_of_all_runs_shows_accuracies_and_what_differs(browser, tmp_path, width):
    board = leaderboard(sorted(make_mixed(tmp_path / "runs").iterdir()))
    file = tmp_path / "all.html"
    file.write_text(html_report(board), encoding="utf-8")
    browser.console.clear()
    browser.open(file.as_uri(), width=width, height=4000)
    assert browser.console == []
    tables = browser.evaluate(
        "[...document.querySelectorAll('.sortable')].map(table => [...table.tHead.rows[0].cells].map(head =>"
        " [head.textContent.trim(), head.getBoundingClientRect().right]))"
    )
    assert len(tables) == 2
    for heads in tables:
        seen = [name for name, right in heads if right < browser.evaluate("innerWidth")]
        assert {"rank", "val accuracy %", "test accuracy %", "n"} <= set(seen)
    assert [name for name, _ in tables[0]][6:7] == ["model"]  # of the cars only the network differs
    read = "[...document.querySelectorAll('{} .yaxislayer-above text')].map(text => text.textContent)"
    assert browser.evaluate(read.format("#accuracies")) == ["large", "small"]
    labels = browser.evaluate(read.format("#accuracies-2"))
    assert len(set(labels)) == len(labels) == 5
    assert not any("…" in label for label in labels)
    inside = browser.evaluate(
        "[...document.querySelectorAll('#accuracies-2 .yaxislayer-above text')].every(text =>"
        " text.getBoundingClientRect().left >= document.getElementById('accuracies-2').getBoundingClientRect().left)"
    )
    assert inside
    text = browser.evaluate("document.body.textContent")
    assert "Pruning" not in text
    assert "pruned after epoch 1" in text
    browser.evaluate(
        "[...document.querySelectorAll('#curve-choice-2 button')].find(b => b.textContent == 'training loss').click()"
    )
    titles = [browser.evaluate(f"document.querySelector('{place} .ytitle').textContent")
              for place in ("#curves", "#curves-2")]  # fmt: skip
    assert titles == ["validation accuracy %", "training loss"]
