"""Weights from elsewhere."""

from passl_sot.interop.convert import ConversionError, ConversionReport, convert_state_dict
from passl_sot.interop.export_torch import export_state_dict

__all__ = ["ConversionError", "ConversionReport", "convert_state_dict", "export_state_dict"]
