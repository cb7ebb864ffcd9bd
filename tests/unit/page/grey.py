"""A server that scores an image by its mean brightness."""

import cv2
import numpy as np

from tests.unit.torchserve_stub import Reply, Served, detector_error, json_reply, verdict


class Grey(Served):
    """Says FAKE to what is bright; of what is no image, that it is none."""

    def judge(self, image: bytes) -> Reply:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
        if pixels is None:
            return detector_error(400, "not_an_image", "these bytes are no image")
        return json_reply(verdict(round(float(pixels.mean()) / 255, 4), self.head))
