"""Chips, nodes and the topology that joins them."""
