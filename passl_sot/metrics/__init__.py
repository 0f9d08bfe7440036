"""Scores of a classifier's outputs."""

from passl_sot.metrics.calibration import CalibrationMeter, save_reliability
from passl_sot.metrics.classification import ClassificationMeter, write_report
from passl_sot.metrics.confusion_picture import save_confusion
from passl_sot.metrics.multi_label import MultiLabelMeter, write_label_report
from passl_sot.metrics.text import CorrelationMeter, SentenceMeter

__all__ = [
    "CalibrationMeter",
    "ClassificationMeter",
    "CorrelationMeter",
    "MultiLabelMeter",
    "SentenceMeter",
    "save_confusion",
    "save_reliability",
    "write_label_report",
    "write_report",
]
