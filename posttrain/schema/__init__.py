"""Words that every layer shares: rows, artifacts, settings, findings, events, errors. No torch, no disk."""
