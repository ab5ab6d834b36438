"""Slots and engines: a slot owns Redis I/O and decides, its engine owns the device and the model."""

import os

# ONNX Runtime 1.31 writes a device id under the home folder and carries an uploader; it looks at this when it is imported.
# Whoever wants that sets the variable to 0 beforehand.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
