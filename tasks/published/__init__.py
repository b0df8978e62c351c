"""Protocols that papers follow, one file a family; they run when named: `--protocol NAME`; docs/protocols.md compares them."""
