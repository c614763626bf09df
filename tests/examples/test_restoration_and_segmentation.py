"""The examples of latent restoration and of segmentation, on small settings."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"


def printed(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    example.main()
    return capsys.readouterr().out


def test_latent(monkeypatch, capsys, tmp_path):
    figure = tmp_path / "latent.png"
    small = ["--images", "4", "--epochs", "12", "--time-limit", "3", "--figure", str(figure)]
    text = printed("latent", small, monkeypatch, capsys)
    # a method's first line is of the images as they are, its second of the noisy ones
    lines = re.findall(r"^(\S+(?: \S+)*) +mean squared error ([\d.]+)$", text, re.MULTILINE)
    errors = dict(reversed(lines))
    encoder, found = float(errors["encoder"]), float(errors["Gauss-Newton"])
    assert found < encoder and float(errors["filled in"]) < float(errors["half of it"])
    match = re.search(r"proof: error ([\d.]+), none below ([\d.]+)", text)
    assert match is not None and 0 < float(match[2]) <= float(match[1])
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_segmentation(monkeypatch, capsys, tmp_path):
    figure = tmp_path / "segmentation.png"
    small = ["--canvases", "400", "--epochs", "6", "--eps", "0.01", "--figure", str(figure)]
    text = printed("segmentation", small, monkeypatch, capsys)
    match = re.search(r"(\d+) pixels changed, at most (\d+) can be", text)
    assert match is not None and 0 < int(match[1]) <= int(match[2]) < 600
    assert float(re.search(r"figure: ([\d.]+)% of the pixels", text)[1]) > 60
    assert figure.read_bytes().startswith(b"\x89PNG")
