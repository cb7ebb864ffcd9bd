"""Videos: which frames are judged, and their pictures, decoded apart from this process."""
