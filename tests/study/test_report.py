"""The page of a run: what it shows is what the run says, nothing of it runs or is loaded, and a browser can use it."""

import base64
import hashlib
import io
import re
import shutil
import sqlite3
import subprocess
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

import clinch as cl
from clinch.cli import run as command
from clinch.demo import network
from clinch.errors import ProblemError
from clinch.study import evaluate, open_run
from clinch.study.report import read_class_names, report_html, several_html, write_report
from clinch.study.report.charts import HEIGHT, WIDTH, curve_chart, stacked, ticks
from clinch.study.report.content import LOWERED, RAISED, difference_picture, input_picture

EVIL = "<script>document.title='taken'</script>"
IMAGES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    net = cl.load(network(), input_shape=(8, 8))
    evaluate(net, "digits", eps=0.08, limit=IMAGES, out=folder / "ball", time_limit=20)
    evaluate(net, "digits", norm=2, limit=IMAGES, out=folder / "far", methods="cheap", time_limit=20)
    evaluate(net, "digits", eps=0.08, limit=IMAGES, out=folder / "evil", time_limit=20)
    with sqlite3.connect(folder / "evil" / "results.sqlite") as database:
        database.execute("UPDATE study SET value = ? WHERE key = 'model'", (EVIL,))
        database.execute("UPDATE study SET value = 'no-such-file.npz' WHERE key = 'data'")
        database.execute("UPDATE study SET value = ? WHERE key = 'notes'", (f'["{EVIL}"]',))
        database.execute("UPDATE results SET error = ?, method = ? WHERE image = 3", (f'"{EVIL}', f"'><b>{EVIL}"))
    database.close()
    return folder


class Page(HTMLParser):
    """Elements with their attributes, the rows of the table, and all text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr" and "data-status" in dict(attrs):
            self.rows.append([])
        elif tag == "td" and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.mark.parametrize("name", ["ball", "far"])
def test_the_table_and_the_headline_are_the_run(folder, name):
    run = open_run(folder / name)
    page = Page(report_html(run))
    assert [row[0] for row in page.rows] == [str(row.image) for row in run.rows]
    assert [row[2] for row in page.rows] == [row.status for row in run.rows]
    assert [row[1] for row in page.rows] == [str(row.label) for row in run.rows]
    if name == "ball":
        assert f"{100 * run.interval[0]:.2f}" in page.text
        margins = [float(row[4].replace("−", "-")) for row in page.rows if row[4]]
        assert margins == [float(f"{row.margin:.4g}") for row in run.rows if row.margin is not None]
    else:
        assert f"{run.distances()['mean_bound']:.4g}" in page.text
        pairs = [(float(row[3]), float(row[4])) for row in page.rows if row[3] and row[4]]
        assert pairs and all(bound <= value * (1 + 1e-3) for value, bound in pairs)
    assert run.identity["model_hash"] in page.text and run.versions["torch"] in page.text


def test_nothing_is_loaded_and_only_our_own_style_and_script_may_run(folder):
    text = report_html(open_run(folder / "ball"))
    page = Page(text)
    policy = next(meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    for tag, attributes in page.elements:
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
    assert page.of("img") and all(image["src"].startswith("data:image/png;base64,") for image in page.of("img"))


def test_names_stay_text_and_missing_data_is_a_sentence(folder):
    run = open_run(folder / "evil")
    page = Page(report_html(run, classes=[EVIL + str(k) for k in range(10)]))
    assert len(page.of("script")) == 1
    assert page.text.count(EVIL) > IMAGES and f"{EVIL}7" in page.text
    assert f"'><b>{EVIL}" in page.rows[3] and page.rows[3][-1].strip() == f'"{EVIL}'
    assert "The original images are not shown" in page.text
    attacked = sum(row.status == "attacked" for row in run.rows)
    words = [image["alt"].split()[0] for image in page.of("img")]
    assert set(words) == {"found"} and len(words) == min(attacked, 12)


def value_at(path, x):
    """A path of steps at x, from the right: each H goes to a place and each V to its height."""
    start, *steps = re.split("(?=H)", path)
    height = float(start[1:].split()[1])
    for step in steps:
        place, _, new = step[1:].partition("V")
        if float(place) > x:
            return height
        height = float(new) if new else height
    return height


@pytest.mark.parametrize("name", ["ball", "far"])
def test_the_curve_is_the_certified_accuracy(folder, name):
    run = open_run(folder / name)
    chart, jumps = curve_chart(run), run.known.jumps()
    reach = float(jumps[-1])
    between = ((jumps[1:] + jumps[:-1]) / 2)[jumps.diff() > reach / WIDTH]
    assert len(between) > (0 if name == "ball" else 10)
    for radius in between.tolist():
        low, high = run.certified(radius)
        assert value_at(chart["lower"], radius / reach * WIDTH) == pytest.approx(HEIGHT * (1 - low), abs=0.01)
        assert value_at(chart["upper"], radius / reach * WIDTH) == pytest.approx(HEIGHT * (1 - high), abs=0.01)


@pytest.mark.parametrize("reach", [1e-7, 0.003, 0.05, 0.7, 1.0, 6.0, 12.5, 784.0])
def test_ticks_are_few_and_within_reach(reach):
    found = ticks(reach)
    assert found[0] == 0 and 3 <= len(found) <= 7 and found[-1] <= reach * (1 + 1e-9) and found == sorted(set(found))


def test_parts_of_a_bar_stand_side_by_side():
    parts = stacked({"attacked": 1, "robust": 2, "failed": 1}, 8)
    assert [(p["status"], p["x"], p["width"]) for p in parts] == [
        ("robust", 0, 25), ("attacked", 25, 12.5), ("failed", 37.5, 12.5),
    ]  # fmt: skip


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_pictures_have_the_values_of_the_inputs():
    x = np.array([[0.0, 0.5], [1.0, 0.25]])
    assert decoded(input_picture(x, 0, 1)).tolist() == [[255, 127], [0, 191]]
    assert decoded(input_picture(2 * x[None] - 1, -1, 1)).tolist() == [[255, 127], [0, 191]]
    colour = np.stack([x, x, 1 - x])
    assert decoded(input_picture(colour, 0, 1))[0, 1].tolist() == [128, 128, 128]
    assert decoded(input_picture(np.linspace(0, 1, 5), 0, 1)).shape == (24, 5)
    delta = decoded(difference_picture(np.array([[0.2, -0.1], [0.0, 0.05]])))
    assert delta[0, 0].tolist() == [*RAISED, 255] and delta[0, 1].tolist() == [*LOWERED, 128]
    assert delta[1, 0, 3] == 0


def test_bad_input_is_told_in_one_line(folder, tmp_path, capsys):
    run = folder / "ball"
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "results.sqlite").write_text("no database, only text" * 50)
    shutil.copytree(run, tmp_path / "empty")
    with sqlite3.connect(tmp_path / "empty" / "results.sqlite") as database:
        database.execute("DELETE FROM results")
    database.close()
    for arguments, words in (
        ([tmp_path / "nothing"], "There is no run in"),
        ([tmp_path], "not a database"),
        ([tmp_path / "empty"], "has no result yet"),
        ([run, "--out", tmp_path / "none" / "a.html"], "Cannot write"),
        ([run, "--out", tmp_path], "Is a directory"),
        ([run, "--classes", tmp_path / "missing.txt"], "No such file"),
        ([run, "--classes", tmp_path / "none.txt"], "has no names"),
        ([run, "--classes", tmp_path / "binary.txt"], "no text in UTF-8"),
        ([run, "--classes", tmp_path / "two.txt"], "There are 2 names of classes"),
        ([run, "--data", tmp_path / "a.npz"], "a.npz"),
    ):
        assert command(["report", *map(str, arguments)]) == 2, words
        captured = capsys.readouterr()
        assert words in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not (run / "report.html").exists()


def test_a_page_is_written_whole_beside_the_run_or_by_evaluate(folder, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("\n".join(f"digit {k}" for k in range(10)) + "\n")
    arguments = ["--title", "A & B", "--classes", str(tmp_path / "names.txt"), "--data", "digits"]
    assert command(["report", str(folder / "far"), *arguments]) == 0
    target = folder / "far" / "report.html"
    assert capsys.readouterr().out.strip() == str(target)
    text = target.read_text(encoding="utf-8")
    assert "<title>A &amp; B</title>" in text and "digit 7" in text and read_class_names(tmp_path / "names.txt")
    with pytest.raises(ProblemError, match="Name every class"):
        write_report(open_run(folder / "far"), tmp_path / "a.html", classes=["a"])
    run = ["evaluate", "clinch.demo:network", "--eps", "0.05", "--limit", "5", "--out", str(tmp_path / "run")]
    assert command([*run, "--report", str(tmp_path / "page.html")]) == 0
    assert len(Page((tmp_path / "page.html").read_text(encoding="utf-8")).rows) == 5


# --- in a browser ---------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which is not installed here")


@pytest.fixture
def opened(folder, tmp_path):
    """The page of a run after its script ran, and what stood on the browser's console."""

    def call(name, fragment="", classes=()):
        path = write_report(open_run(folder / name), tmp_path / "page.html", classes=classes)
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        outcome = subprocess.run(
            [CHROMIUM, *options, profile, path.as_uri() + fragment], capture_output=True, text=True, timeout=120
        )
        return outcome.stdout, [line for line in outcome.stderr.splitlines() if "CONSOLE" in line]

    return call


def visible(dom):
    """Cells of the rows that are not hidden, in the order in which they stand."""
    table = dom.partition('<table id="table">')[2]
    return [Page(row).rows[0] for row in re.findall(r"<tr data-status.*?</tr>", table, re.DOTALL) if "hidden" not in
            row.partition(">")[0]]  # fmt: skip


@browser
@pytest.mark.parametrize("status", ["robust", "misclassified", "closed"])
def test_the_address_filters_the_table(folder, opened, status):
    run = open_run(folder / "ball")
    dom, console = opened("ball", f"#status={status}")
    wanted = [str(row.image) for row in run.rows if row.status == status]
    assert [row[0] for row in visible(dom)] == wanted and console == []
    assert f">{len(wanted)} of {IMAGES} images</output>" in dom


@browser
def test_the_address_sorts_the_table_and_finds_in_it(folder, opened):
    run = open_run(folder / "far")
    dom, console = opened("far", "#class=3&sort=distance+≤&order=down")
    rows = sorted((row for row in run.rows if row.label == 3), key=lambda row: -(row.value or 0))
    assert [row[0] for row in visible(dom)] == [str(row.image) for row in rows] and len(rows) > 2 and console == []
    assert 'aria-sort="descending"' in dom
    dom, console = opened("far", "#find=7&by=image")
    assert [row[0] for row in visible(dom)] == ["7"] and console == []


@browser
def test_names_do_not_run_and_the_console_stays_empty(opened):
    dom, console = opened("evil", classes=[EVIL] * 10)
    assert console == [] and len(visible(dom)) == IMAGES
    assert "<title>taken</title>" not in dom and "<title>&lt;script&gt;" in dom


def test_several_runs_stand_side_by_side(folder):
    """Each run has a line with its own figures, each image the status of every run, and nothing of them is run."""
    runs = [open_run(folder / name) for name in ("ball", "far", "evil")]
    page = Page(several_html(runs, title="Three runs", classes=list("0123456789")))
    assert len(page.rows) == IMAGES and "Three runs" in page.text
    for image, cells in enumerate(page.rows):
        rows = [run.rows[image] for run in runs]
        assert cells[0] == str(image) and cells[2] == ("same" if len({r.status for r in rows}) == 1 else "differs")
        assert [cell.split()[0] for cell in cells[3:]] == [row.status for row in rows]
    assert sum(tag == "script" for tag, _ in page.elements) == 1 and EVIL in page.text
    low, high = (f"{100 * share:.2f}" for share in runs[0].interval)
    assert (low if low == high else f"{low} – {high}") in page.text
    with pytest.raises(ProblemError, match="no runs"):
        several_html([])


def test_a_folder_of_runs_becomes_a_page_that_leads_to_theirs(folder, tmp_path, capsys):
    both = tmp_path / "both runs"
    for name in ("ball", "far"):
        shutil.copytree(folder / name, both / f"{name} #1")
    assert command(["report", str(both)]) == 0
    target = both / "report.html"
    assert capsys.readouterr().out.strip() == str(target)
    links = [unquote(at["href"]) for tag, at in Page(target.read_text("utf-8")).elements if tag == "a" and at]
    assert links == ["ball #1/report.html", "far #1/report.html"] and all((both / link).is_file() for link in links)
    assert command(["report", str(both), "--data", "digits"]) == 2
    assert "is for the page of one run" in capsys.readouterr().err
