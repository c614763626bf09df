"""Change what a segmentation network sees, draw a figure on its output, and prove pixels that nothing changes.

    python examples/segmentation.py [--canvases 2000] [--epochs 10] [--eps 0.02] [--figure segmentation.png]

A small fully convolutional network is trained first (12 seconds) on canvases of the digits that come with scikit-learn:
every pixel is background or the ink of one of five digits. Row 1: as many changed pixels as possible within eps, beside
the pixels that CROWN proves. Row 2: the same with ten times eps. Row 3: a frame drawn on the output within 20 eps.
"""

import argparse

import torch

import clinch as cl
from clinch.applications.segmentation import Pixels, changeable, measures, segmentation_figure
from clinch.demo.segmenter import CLASSES, canvases, pixel_accuracy, train_segmenter
from clinch.figures import save


def main() -> None:
    """Train, attack, prove, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canvases", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--eps", type=float, default=0.02)
    parser.add_argument("--figure", default="segmentation.png")
    options = parser.parse_args()
    net = train_segmenter(options.canvases, epochs=options.epochs)
    print("accuracy of all pixels {:.1%}, of ink {:.1%}".format(*pixel_accuracy(net, canvases(100, "test", seed=1))))
    x = canvases(1, "test", seed=1).x

    small = changeable(net, x, eps=options.eps)  # attack and proof
    print(f"eps {options.eps:g}: {int(small.value)} pixels changed, at most {int(small.bound)} can be")
    goal = Pixels(net, x)
    large = cl.attacks.apgd(goal, eps=10 * options.eps)
    found = measures(goal, large.x)
    print(f"eps {10 * options.eps:g}: {float(found.changed):.1%} changed, agreement {float(found.agreement):.2f}")
    frame = torch.zeros(20, 30, dtype=torch.long)
    frame[4:16, 6:24] = 2  # the class of digit 1
    frame[7:13, 9:21] = 0
    drawn = Pixels(net, x, target=frame)
    drawing = cl.attacks.apgd(drawn, eps=20 * options.eps, steps=300)
    found = measures(drawn, drawing.x)
    print(f"figure: {float(found.taken):.1%} of the pixels take their target")

    z = torch.cat([small.attack.x, large.x, drawing.x])
    figure = segmentation_figure(
        x.expand_as(z), z, net(x).argmax(1).expand(3, -1, -1), net(z).argmax(1),
        target=torch.stack([torch.full_like(frame, -1)] * 2 + [frame]),
        changed=torch.cat([small.changed, goal.changed(large.x), drawn.changed(drawing.x)]),
        fixed=torch.cat([small.fixed, torch.zeros_like(small.fixed).expand(2, -1, -1)]),
        classes=["background", *(f"digit {d}" for d in range(CLASSES - 1))],
        notes=(f"eps {options.eps:g}", f"eps {10 * options.eps:g}", "a frame"),
    )  # fmt: skip
    save(figure, options.figure)


if __name__ == "__main__":
    main()
