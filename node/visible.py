"""Others' text on a person's terminal: what a peer, a spec's author or a model wrote cannot move the cursor, recolour
the screen, ring, set the window's title, answer for the terminal or turn the direction of writing.
"""

import json


def visible(text: str) -> str:
    """Text as it is, of any number of lines; a dot for what is no character to look at."""
    return "".join(char if char == "\n" or (char.isprintable() and char != "\ufffd") else "·" for char in text)


def quoted(text: str) -> str:
    """Text within a line; if it holds what cannot be looked at, in quotes and escaped, so that nothing is lost."""
    return text if text.isprintable() else json.dumps(text).replace("\x7f", "\\u007f")
