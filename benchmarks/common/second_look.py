"""A second look at points without a line of Clinch: the reference models' ONNX files in onnxruntime."""

from __future__ import annotations

import onnxruntime
import torch
from torch import Tensor

from clinch.io.data import Images, mnist, model_file

#: rounding of logits between two float32 libraries
ROUNDING = 1e-4


class SecondLook:
    """A reference model in onnxruntime, by its name such as ``"mnist_small"``."""

    def __init__(self, name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(model_file(f"{name}.onnx")), options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name

    def logits(self, x: Tensor) -> Tensor:
        """``(N, 10)`` float64 logits of images ``(N, 1, 28, 28)``."""
        outputs = self.session.run(None, {self.input: x.float().numpy()})
        return torch.as_tensor(outputs[0], dtype=torch.float64)

    def is_another_class(self, x: Tensor, label: int) -> bool:
        """Whether some other class reaches the label's logit at one image ``(1, 28, 28)``, up to rounding."""
        z = self.logits(x[None])[0]
        others = z[torch.arange(len(z)) != label].max()
        return bool(others >= z[label] - ROUNDING)

    def correct(self, count: int) -> tuple[Images, list[int]]:
        """MNIST's test images and the positions of the first that are correctly classified."""
        data = mnist("test")
        head = Images(data.x[: 2 * count + 20], data.y[: 2 * count + 20])
        right = (self.logits(head.x).argmax(1) == head.y).nonzero().flatten()
        return head, right[:count].tolist()
