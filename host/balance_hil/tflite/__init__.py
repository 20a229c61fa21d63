"""The .tflite file: reading its graph, changing it, writing one."""
