"""Monitors, decoders, regression, segmentation and policies."""
