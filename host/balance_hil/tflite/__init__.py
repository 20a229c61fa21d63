"""The .tflite file: reading, editing and writing it."""
