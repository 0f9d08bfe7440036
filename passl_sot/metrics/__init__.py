"""Scores of a classifier's outputs."""

from passl_sot.metrics.classification import ClassificationMeter, write_report
from passl_sot.metrics.confusion_picture import save_confusion
from passl_sot.metrics.multi_label import MultiLabelMeter, write_label_report

__all__ = ["ClassificationMeter", "MultiLabelMeter", "save_confusion", "write_label_report", "write_report"]
