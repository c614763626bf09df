"""Tables, text and figures of a paper; robustness distributions."""

import csv
import io
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clinch as cl
from clinch.cli import run as command
from clinch.figures import save
from clinch.study import figures, tables
from clinch.study.distribution import distribution
from clinch.study.evaluation import Evaluation, Tally
from clinch.study.store import Row
from clinch.study.template import ATTACKED, CLOSED, MISCLASSIFIED, OPEN, ROBUST, Template


def study(pairs, eps=None, model="m", status=None):
    """A study of distances (bound, value), or of statuses at a radius."""
    rows = [
        Row(i, 0, status[i] if status else (CLOSED if low == high else OPEN), value=high, bound=low, method="x")
        for i, (low, high) in enumerate(pairs)
    ]  # fmt: skip
    counts = {name: sum(row.status == name for row in rows) for name in {row.status for row in rows}}
    return Evaluation(Template(math.inf, eps), model, "d", Tally(len(rows), counts), tuple(rows))


#: several studies at radii, by what became of four images
TWO = cl.study.Comparison(
    {
        f"{model}{eps}": study([(0.0, math.inf)] * 4, eps, model, [ROBUST, ROBUST, end, MISCLASSIFIED])
        for model in ("a_1", "b|2") for eps, end in ((2 / 255, ROBUST), (8 / 255, OPEN))
    }
)  # fmt: skip


def test_tables_of_a_paper_have_one_row_each_and_leave_out_what_is_the_same():
    rows = tables.paper_rows(TWO)
    assert [row["radius"] for row in rows] == ["2/255", "8/255"] * 2
    assert "data" not in rows[0] and rows[1]["robust %"] == "50.00 .. 75.00"
    read = list(csv.DictReader(io.StringIO(tables.csv_table(rows))))
    assert [row["model"] for row in read] == ["a_1", "a_1", "b|2", "b|2"]
    lines = tables.markdown_table(rows).splitlines()
    assert len(lines) == 6 and "b\\|2" in lines[4] and lines[1].count("---:") == 4
    latex = tables.latex_table(rows, "100 % of it", "tab:x")
    assert r"a\_1" in latex and "$[50.00, 75.00]$" in latex and r"\caption{100 \% of it}" in latex
    assert latex.count(r"\\") == 5 and latex.count("{") == latex.count("}")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_no_text_of_a_stranger_leaves_its_cell(texts):
    rows = [{"model": text} for text in texts]
    assert [line[0] for line in csv.reader(io.StringIO(tables.csv_table(rows)))][1:] is not None
    assert tables.markdown_table(rows).count("\n| ") == len(texts) + 1
    body = tables.latex_table(rows).split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert not re.search(r"(?<!\\)[%&#_$](?![\[\\])", body.replace(r"$\ell", ""))


def test_the_ending_chooses_the_table(tmp_path):
    for ending, words in ((".csv", "model,"), (".md", "| model"), (".tex", "tabular")):
        path = cl.study.write_paper_table(tmp_path / f"t{ending}", tables.paper_rows(TWO))
        assert words in path.read_text()
    with pytest.raises(cl.ClinchError, match=r"\.csv, \.md, \.tex"):
        cl.study.write_paper_table(tmp_path / "t.doc", [])


def test_the_methods_section_names_what_it_cites():
    text = cl.study.methods_text(TWO)
    cited = set(re.findall(r"\\cite\{(\w+)\}", text))
    assert cited <= set(re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE)) and "clinch" in cited
    assert "2/255, 8/255" in text and "a\\_1, b|2" in text
    assert "smallest" in cl.study.methods_text(study([(0.1, 0.2)]))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(0.001, 1), st.floats(1, 3)), min_size=3, max_size=12))
def test_quantiles_hold_those_of_every_choice_of_distances(pairs):
    pairs = [(low, low * factor) for low, factor in pairs]
    found = distribution(study(pairs))
    for share in (0.0, 0.5, 1.0):
        truth = torch.tensor([low + share * (high - low) for low, high in pairs], dtype=torch.float64).sort().values
        for q in found.quantiles:
            value = truth[max(0, math.ceil(q.share * len(truth)) - 1)]
            assert q.low - 1e-12 <= q.proven - 1e-12 <= value <= q.found + 1e-12 <= q.high + 2e-12
    assert 0 <= found.gap <= 1 and found.fit is not None and 0 <= found.fit.p <= 1


def test_the_fit_finds_a_log_normal_and_refuses_two_heaps():
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randn(300, generator=generator, dtype=torch.float64) * 0.4 - 2).exp().tolist()
    good = distribution(study([(r, r) for r in drawn])).fit
    assert good.mu == pytest.approx(-2, abs=0.1) and good.sigma == pytest.approx(0.4, abs=0.05) and good.p > 0.05
    heaps = distribution(study([(r, r) for r in [0.1 + i * 1e-4 for i in range(60)] + [0.9] * 60]))
    assert heaps.fit.p < 0.01 and "speaks against it" in str(heaps) and heaps.closed == 1


def test_a_distribution_is_of_distances():
    with pytest.raises(cl.ClinchError, match="Leave eps out"):
        distribution(study([(0.1, 0.2)], 0.1))
    with pytest.raises(cl.ClinchError, match="classified correctly"):
        distribution(study([(0.0, 0.0)], status=[MISCLASSIFIED]))


def test_an_image_without_a_distance_keeps_its_quantiles_open():
    found = distribution(study([(0.1, 0.1), (0.2, math.inf)]))
    assert found.quantiles[-1].found == math.inf and found.fit is None and found.gap == 0.5


def test_several_runs_are_curves_or_bars(tmp_path):
    curves = figures.compared_figure(list(TWO.runs.values()), "two")
    high = [
        line.get_ydata() for line in curves.axes[0].lines if len(line.get_ydata()) > 2 and line.get_linestyle() == "-"
    ]
    assert len(high) == 2 and max(high[0]) == 75 and save(curves, tmp_path / "c.svg").stat().st_size > 1000
    bars = figures.compared_figure([run for run in TWO.runs.values() if run.template.eps == 2 / 255])
    assert [patch.get_height() for patch in bars.axes[0].patches] == [75, 0, 75, 0]
    drawn = figures.distribution_figure([study([(0.1, 0.1), (0.2, 0.3), (0.4, 0.5)])])
    assert save(drawn, tmp_path / "d.pdf").stat().st_size > 1000
    with pytest.raises(cl.ClinchError, match="several norms"):
        figures.compared_figure([*TWO.runs.values(), Evaluation(Template(2.0, 0.1), "m", "d", Tally(1, {}), ())])


def test_data_frames_have_the_columns_of_the_rows():
    pytest.importorskip("pandas")
    frame = study([(0.1, 0.2), (0.3, 0.3)]).to_frame()
    assert list(frame["bound"]) == [0.1, 0.3] and list(frame["status"]) == [OPEN, CLOSED]
    assert list(TWO.to_frame()["robust_high"]) == [0.75, 0.75] * 2


def test_one_command_makes_the_table_the_text_and_the_curves(tmp_path, capsys):
    line = ["evaluate", "clinch.demo:network", "--eps", "1/255,2/255", "--limit", "2", "--methods", "cheap"]
    out = tmp_path / "runs"
    done = command([*line, "--out", str(out), "--table", str(tmp_path / "t.tex"), "--text", str(tmp_path / "m.tex")])
    assert done == 0 and "network" in (tmp_path / "t.tex").read_text() and "cite{" in (tmp_path / "m.tex").read_text()
    assert command(["figure", str(out), "--title", "T", "--out", str(tmp_path / "c.pdf")]) == 0
    assert command(["figure", str(out), "--kind", "classes", "--out", str(tmp_path / "c.pdf")]) == 2
    assert "Ask for curve or distribution" in capsys.readouterr().err


def test_a_layout_is_said_where_shapes_do_not_tell():
    x = torch.arange(2 * 3 * 4 * 3).reshape(2, 3, 4, 3) / 100
    source = cl.study.sources.laid_out(cl.study.open_source((x, torch.tensor([0, 1]))), "nhwc")
    assert torch.equal(source.read([1], (3, 3, 4), torch.float32).x[0], x[1].permute(2, 0, 1))
    with pytest.raises(cl.ClinchError, match="nchw"):
        cl.study.sources.laid_out(source, "hwcn")


def test_attacked_images_are_in_no_interval():
    run = study([(0.0, 0.1)] * 2, 0.1, "m", [ATTACKED, ROBUST])
    assert tables.paper_rows(cl.study.Comparison({"": run}))[0]["robust %"] == "50.00"
