"""How the embedded backbone was made. Not part of the installed package."""
