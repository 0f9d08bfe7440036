"""Weights from elsewhere."""

from passl_sot.interop.convert import ConversionError, ConversionReport, convert_state_dict

__all__ = ["ConversionError", "ConversionReport", "convert_state_dict"]
