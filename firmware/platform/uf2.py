"""Images for boards with a boot drive: the checksum of RP2040's second-stage boot, and the UF2 file format."""

import struct
import subprocess
from pathlib import Path

PAYLOAD_BYTES = 256  # of each 512-byte block
_FAMILY_PRESENT = 0x2000
_BOOT_BYTES = 252  # the checksum follows


def boot_checksum(code: bytes) -> int:
    """CRC-32 (polynomial 04C11DB7, initial value all ones, not reflected, no final xor) that RP2040's ROM expects."""
    crc = 0xFFFFFFFF
    for byte in code:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return crc


def uf2(image: bytes, address: int, family: int) -> bytes:
    """The image as UF2 blocks, for the flash at ``address``; see the UF2 specification."""
    count = -(-len(image) // PAYLOAD_BYTES)
    blocks = []
    for number in range(count):
        payload = image[number * PAYLOAD_BYTES :][:PAYLOAD_BYTES].ljust(PAYLOAD_BYTES, b"\0")
        place = address + number * PAYLOAD_BYTES
        head = (0x0A324655, 0x9E5D5157, _FAMILY_PRESENT, place, PAYLOAD_BYTES, number, count, family)
        blocks.append(struct.pack("<8I", *head) + payload.ljust(476, b"\0") + struct.pack("<I", 0x0AB16F30))
    return b"".join(blocks)


def finish(program: Path, toolchain: str, address: int, family: int) -> None:
    """Puts the checksum into the linked program and writes the UF2 file beside it."""
    section, binary, objcopy = program.with_suffix(".boot2"), program.with_suffix(".bin"), f"{toolchain}objcopy"
    subprocess.run([objcopy, "--dump-section", f".boot2={section}", str(program)], check=True)
    code = section.read_bytes()[:_BOOT_BYTES].ljust(_BOOT_BYTES, b"\0")
    section.write_bytes(code + struct.pack("<I", boot_checksum(code)))
    subprocess.run([objcopy, "--update-section", f".boot2={section}", str(program)], check=True)
    subprocess.run([objcopy, "-O", "binary", str(program), str(binary)], check=True)
    program.with_suffix(".uf2").write_bytes(uf2(binary.read_bytes(), address, family))
