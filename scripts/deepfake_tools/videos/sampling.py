"""Which frames of a video are judged, and how their times are written."""


def clock(seconds: float) -> str:
    """Returns a time in a video as 00:12.480, or as 1:02:03.480 from an hour on."""
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    rest = f"{minutes:02}:{milliseconds // 1000:02}.{milliseconds % 1000:03}"
    return f"{hours}:{rest}" if hours else rest
