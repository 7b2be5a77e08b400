"""What each kind of process reports of itself when it is asked: values are read where they are kept."""
