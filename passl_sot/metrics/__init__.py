"""What is measured of a classifier's outputs."""

from passl_sot.metrics.classification import ClassificationMeter, write_report

__all__ = ["ClassificationMeter", "write_report"]
