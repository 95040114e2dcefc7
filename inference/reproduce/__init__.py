"""Accuracy, measured: the paper's tables trained by timm's own script, a JSON file a run, a page of all of them."""
