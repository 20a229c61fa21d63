"""Compiles the inner loops for speed where the rest is compiled for size."""

Import("env")  # noqa: F821  # PlatformIO's


def for_speed(env, node):
    """The object of one source file."""
    is_source = str(node).endswith(".cpp")  # PlatformIO may have registered this twice
    return env.Object(node, CCFLAGS=[*env["CCFLAGS"], "-O2"]) if is_source and "-Os" in env["CCFLAGS"] else node


for name in ("dense_rows_*", "depthwise", "add_mul", "pooling", "mean"):
    env.AddBuildMiddleware(for_speed, f"*/engine_int8/src/{name}.cpp")  # noqa: F821 - PlatformIO's
