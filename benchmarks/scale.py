"""Throughput of two workers against one on a compute-bound study, for a pool of processes and for Ray.

    python benchmarks/scale.py [--model mnist_small.onnx] [--images 24] [--seconds 4] [--repeats 3]
        [--out benchmarks/results/scale.md]

The study is minimum l2 distances of MNIST digits whose every image gets a search that uses up its share of the time. The
share is wall time, which other work on the machine and the other worker take from, so that it is not what counts here:
each worker is given CPU seconds instead (benchmarks/cpu_clock.py's clock, in the workers), and a study of N images ends
when N times so many CPU seconds are spent. Throughput is images over the wall time from the first task to the last row;
workers are started, and have imported everything, before. One and two workers take turns; medians of the ratios.
"""
