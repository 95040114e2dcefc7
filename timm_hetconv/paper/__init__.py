"""The counts that the paper publishes, the conventions that yield them, and the exact costs of our models beside them.

`timm_hetconv` does not import this package: `from timm_hetconv.paper import compare`.
"""

from .comparison import PaperRow, agreement, compare
from .conventions import CONVENTIONS, Convention
from .tables import ACCURACIES, FIGURES, Published

__all__ = ['ACCURACIES', 'CONVENTIONS', 'FIGURES', 'Convention', 'PaperRow', 'Published', 'agreement', 'compare']
