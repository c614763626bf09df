"""The ground that every room stands on: time, memory, devices, gradients, arguments, and names that have moved."""
