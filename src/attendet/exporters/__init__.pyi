from .exporter import ExportReport as ExportReport
from .exporter import export as export
from .settings import ExportSettings as ExportSettings
