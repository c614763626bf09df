"""``clinch evaluate --transform``: changes with few parameters on the command line."""

import json


def test_the_command_line_has_the_same(clinch, tmp_path):
    (tmp_path / "model.py").write_text(
        "import torch\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()\n"
    )
    model, out = f"{tmp_path}/model.py:make", tmp_path / "found.json"
    outcome = clinch("evaluate", model, "--transform", "brightness=0.01", "--limit", "4", "--json", str(out))
    content = json.loads(out.read_text())
    assert outcome.code == 0 and "under these changes" in outcome.out
    assert content["transforms"] == "brightness=0.01" and len(content["images"]) == 4
    outcome = clinch("evaluate", model, "--transform", "blur=1", "--eps", "0.1")
    assert outcome.code == 2 and "--transform" in outcome.err and "--eps" in outcome.err
    for option in (["--device", "cpu"], ["--methods", "bounds"], ["--workers", "2"], ["--per-class"]):
        outcome = clinch("evaluate", model, "--transform", "blur=1", *option)
        assert outcome.code == 2 and f"takes no {option[0]}" in outcome.err
