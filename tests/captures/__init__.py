"""Conversations of real firmware and real clients with the provider; README.md tells what is here and how it was made."""
