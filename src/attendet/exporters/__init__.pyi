from .exporter import DYNAMIC as DYNAMIC
from .exporter import FORMATS as FORMATS
from .exporter import ExportReport as ExportReport
from .exporter import export as export
