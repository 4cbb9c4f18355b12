"""Reads what a request asks for, pictures included. It answers nothing."""
