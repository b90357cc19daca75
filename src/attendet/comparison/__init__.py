"""Controlled comparisons: does attention help on this data, by how much, and what does it cost?

A study trains every variant (an attention, its sites, its init) with the same seeds under one
recipe, measures all of them on the same test images, and gives each variant a verdict. Its records
are plain JSON, which `attendet.report` turns into pages.
"""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__, extra="study")
