"""Weights of other projects, converted both ways."""

from passl_sot.interop.convert import convert_state_dict, export_state_dict
from passl_sot.interop.report import ConversionError, ConversionReport

__all__ = ["ConversionError", "ConversionReport", "convert_state_dict", "export_state_dict"]
