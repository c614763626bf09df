"""``clinch recourse``: rows of a CSV file, a schema, answers as text, JSON and a table."""

import json


def test_the_command(clinch, tmp_path):
    (tmp_path / "model.py").write_text(
        "import torch\ndef make():\n    torch.manual_seed(0)\n    net = torch.nn.Linear(2, 2).eval()\n"
        "    net.weight.data = torch.tensor([[0.0, 0.0], [1.0, 2.0]])\n"
        "    net.bias.data = torch.tensor([0.0, -10.0])\n    return net\n"
    )
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n2,6\n")
    (tmp_path / "s.toml").write_text("[features.a]\nrange = [0, 9]\nstep = 1\n[features.b]\nrange = [0, 9]\nstep = 1\n")
    arguments = [f"{tmp_path}/model.py:make", str(tmp_path / "rows.csv"), "--schema", str(tmp_path / "s.toml")]
    assert "add --run-code" in clinch("recourse", *arguments).err
    outcome = clinch(
        "recourse", *arguments, "--run-code", "--json", str(tmp_path / "a.json"), "--table", str(tmp_path / "a.csv")
    )
    assert outcome.code == 0 and "2 rows: 2 answered, 2 proven" in outcome.out
    first, second = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert first[0]["after"] == {"a": 1, "b": 5} and first[0]["status"] == "OPTIMAL" and second[0]["changes"] == {}
    assert (tmp_path / "a.csv").read_text().splitlines()[1].startswith("0,OPTIMAL,3.0")
