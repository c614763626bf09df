"""Runs as HTML pages that need nothing else: no network, no fonts, no scripts of others."""

from clinch.study.report.page import read_class_names, report_html, several_html, write_report, write_several

__all__ = ["read_class_names", "report_html", "several_html", "write_report", "write_several"]
