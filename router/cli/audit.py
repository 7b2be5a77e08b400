"""Who changes something, unless they say so themselves."""

import getpass
import os
import re
import socket

_MOST = 128


def default_actor() -> str:
    """Return USER@HOST of this process, as the API takes it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = f"uid {os.getuid()}"
    return re.sub(r"[\x00-\x1f\x7f]", "", f"{user}@{socket.gethostname()}")[:_MOST]
