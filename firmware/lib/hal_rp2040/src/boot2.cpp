// Second-stage boot loader: the ROM copies the first 256 bytes of the flash to RAM, checks their CRC-32 (which the build
// appends) and runs them. They set the flash interface to the plain read command (03h), which every flash chip supports, at a
// quarter of the processor clock, and start the image.

extern "C" __attribute__((naked, section(".boot2"), used)) void SecondStageBoot() {
  __asm__ volatile(
      "ldr r0, 1f\n"  // SSI
      "movs r1, #0\n"
      "str r1, [r0, #0x08]\n"  // SSIENR: disabled during set-up
      "movs r1, #4\n"
      "str r1, [r0, #0x14]\n"  // BAUDR
      "ldr r1, 2f\n"
      "str r1, [r0, #0x00]\n"  // CTRLR0: 32 bits a frame, EEPROM read
      "movs r1, #0\n"
      "str r1, [r0, #0x04]\n"  // CTRLR1: one frame a read
      "ldr r1, 3f\n"
      "ldr r2, 4f\n"
      "str r1, [r2]\n"  // SPI_CTRLR0: command 03h of 8 bits, address of 24 bits, all on one line
      "movs r1, #1\n"
      "str r1, [r0, #0x08]\n"
      "ldr r0, 5f\n"  // the image's vectors
      "ldr r1, 6f\n"  // VTOR
      "str r0, [r1]\n"
      "ldr r1, [r0]\n"
      "msr msp, r1\n"
      "ldr r1, [r0, #4]\n"
      "bx r1\n"
      ".align 2\n"
      "1: .word 0x18000000\n"
      "2: .word 0x001f0300\n"
      "3: .word 0x03000218\n"
      "4: .word 0x180000f4\n"
      "5: .word 0x10000100\n"
      "6: .word 0xe000ed08\n");
}
