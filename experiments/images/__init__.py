"""Digits: an encoder and a dense head say which digit an image shows."""
