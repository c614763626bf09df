"""Ready-made statements for fields of use: monitors, regression, segmentation, decoders, policies."""
