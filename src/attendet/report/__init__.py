"""Reports from result records: charts, tables, drawings on images, HTML pages and Markdown.

Charts and pages need matplotlib and Jinja2 (the ``train`` extra).
"""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
