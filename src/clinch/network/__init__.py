"""Networks: the graph, its operators, and the readers of modules and ONNX files."""
