"""Rows become batches: reading files, rendering chat, laying answers out."""
