"""From a HetConv model to an engine: export, lowering, engines, and a bench that puts measurement beside theory."""
