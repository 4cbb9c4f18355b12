"""The documentation site: sorts the repository's Markdown and writes the reference from the code; Sphinx renders both.

``sh scripts/site.sh`` builds it. The pages stay where the repository's host shows them; nothing here is installed.
"""
