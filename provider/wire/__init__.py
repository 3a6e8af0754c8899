"""Codecs and protocol machines: bytes, facts and `now` in; bytes, steps or an outcome out."""
