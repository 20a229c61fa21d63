"""Export: a checkpoint becomes a bundle (ONNX, float32 and quantized TFLite, C array, golden vectors, manifest, model card)."""

from balance_hil.exporting.config import ExportConfig, ExportResult, Stage
from balance_hil.exporting.pipeline import export

__all__ = ["ExportConfig", "ExportResult", "Stage", "export"]
