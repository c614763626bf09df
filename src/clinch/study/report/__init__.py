"""A run as one HTML page that needs nothing else: no network, no fonts, no scripts of others."""

from clinch.study.report.page import read_class_names, report_html, write_report

__all__ = ["read_class_names", "report_html", "write_report"]
