"""The independent checker of certificates: NumPy, and ONNX files as they are; nothing of the package but itself."""
