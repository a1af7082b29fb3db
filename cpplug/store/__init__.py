"""The repository on disk: registry, collections, validity ranges. Knows no plugin.

``Repository`` is all that other rooms use, with the records of ``cpplug.store.records``. Its
methods are listed in ``cpplug.store.repository``.
"""

from cpplug.store.repository import Repository

__all__ = ["Repository"]
