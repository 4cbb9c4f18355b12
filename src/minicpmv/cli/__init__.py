"""The ``minicpmv`` command. Imports a command's body only when it runs."""
