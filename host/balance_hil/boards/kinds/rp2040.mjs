// Runs a UF2 image on an emulated RP2040 (npm package rp2040js), its UART0 behind stdin and stdout or a TCP port.
//
//   node rp2040.mjs RP2040JS IMAGE.uf2 {"watchdog_ms": 100, "listen_fd": 3, "clock": "device"}
//
// SIGUSR2 is the reset button. With "clock": "device" the chip's time advances only on request, see `serveDeviceClock`.

import { readFileSync, readSync, writeSync } from "node:fs";
import { createServer } from "node:net";

process.on("uncaughtException", (error) => {
  console.error(error.message);
  process.exit(1);
});

const [modulePath, imagePath, settingsText] = process.argv.slice(2);
const { RP2040 } = await import(modulePath);
const settings = JSON.parse(settingsText);

const FLASH = 0x10000000;
const BOOT_ADDRESS = 0x20041f00; // where the ROM runs the second-stage boot
const BOOT_BYTES = 252;
const OPTIONS_MARK = 0x4f505431; // see hal_cortex
// In the ROM's place: its lookup of functions as the datasheet describes it, and one function, `reset_to_usb_boot`. There is no
// USB here: that function sleeps until a reset.
const ROM_TABLE = 0x20, ROM_LOOKUP = 0x40, ROM_USB_BOOT = 0x58;
const ROM = {
  0x14: [ROM_TABLE, 0, ROM_LOOKUP | 1],
  [ROM_TABLE]: [0x4255, ROM_USB_BOOT | 1, 0], // "UB"
  // ldrh r2, [r0]; cmp r2, #0; beq none; cmp r2, r1; beq found; adds r0, #4; b back; found: ldrh r0, [r0, #2]; bx lr; none:
  // movs r0, #0; bx lr
  [ROM_LOOKUP]: [0x8802, 0x2a00, 0xd005, 0x428a, 0xd001, 0x3004, 0xe7f8, 0x8840, 0x4770, 0x2000, 0x4770],
  [ROM_USB_BOOT]: [0xbf30, 0xe7fd], // wfi; b back
};
const BITS_PER_BYTE = 10;
const CLOSE_MS = 50; // to hear that a client has gone when the next one is there already
const TX_FIFO = 32;
const LINE_FEED = 10;
const TX_FULL = 1 << 5, TX_BUSY = 1 << 3, TX_EMPTY = 1 << 7;
const MS = 1e6; // in nanoseconds
// Registers that the chip has, that the emulator does not know, and that change nothing here.
const UNKNOWN_BUT_HARMLESS = /^\[?(UART0|SSI|PADS_|IO_QSPI|XIP|PSM)/;

function readUf2(path) {
  const file = readFileSync(path);
  const flash = new Uint8Array(16 * 1024 * 1024).fill(0xff);
  for (let at = 0; at + 512 <= file.length; at += 512) {
    flash.set(file.subarray(at + 32, at + 32 + file.readUInt32LE(at + 16)), file.readUInt32LE(at + 12) - FLASH);
  }
  return flash;
}

function bootChecksum(code) {
  let crc = 0xffffffff;
  for (const byte of code) {
    crc ^= byte << 24;
    for (let bit = 0; bit < 8; ++bit) crc = crc & 0x80000000 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
  }
  return crc >>> 0;
}

const strict = {
  debug() {},
  info() {},
  warn(unit, message) {
    if (!UNKNOWN_BUT_HARMLESS.test(unit)) throw new Error(`${unit}: ${message}`);
  },
  error(unit, message) {
    throw new Error(`${unit}: ${message}`);
  },
};

class Chip {
  constructor(flash) {
    this.flash = flash;
    this.received = []; // [byte, time of its last stop bit, ns], on their way to the chip
    this.nextReceiveNs = 0;
    this.messageEndNs = Infinity; // when the first delimiter of `sent` has left
    this.sent = []; // [byte, time of its last stop bit, ns], on their way to the host
    this.busyCycles = 0;
    this.start(null);
    if (settings.watchdog_ms != null) {
      new Uint32Array(this.chip.sram.buffer, 0, 2).set([OPTIONS_MARK, settings.watchdog_ms]);
    }
  }

  get nowNs() {
    return this.clock.nanosCounter;
  }

  /** From the ROM's place: checks the second-stage boot and runs it. `before`: the chip that was reset; null: power on. */
  start(before) {
    const chip = new RP2040();
    chip.logger = strict;
    chip.flash.set(this.flash);
    const rom = new Uint16Array(chip.bootrom.buffer);
    for (const [address, halfwords] of Object.entries(ROM)) rom.set(halfwords, address / 2);
    this.chip = chip;
    this.clock = chip.clock;
    const watchdog = chip.peripherals[0x40058];
    if (before) {
      this.clock.nanosCounter = before.clock.nanosCounter;
      chip.sram.set(before.sram);
      watchdog.scratchData.set(before.peripherals[0x40058].scratchData);
      watchdog.reason = before.peripherals[0x40058].reason;
    }
    this.resetRequested = false;
    watchdog.onWatchdogTrigger = () => {
      watchdog.alarm.enable = false; // at a count of zero it would go off again without end
      watchdog.timer.enable = false;
      this.resetRequested = true;
    };
    const boot = this.flash.subarray(0, BOOT_BYTES);
    if (bootChecksum(boot) !== chip.flashView.getUint32(BOOT_BYTES, true)) {
      throw new Error("the checksum of the second-stage boot is wrong: the ROM would not run this image");
    }
    chip.sram.set(boot, BOOT_ADDRESS - 0x20000000);
    chip.core.VTOR = 0;
    chip.core.SP = BOOT_ADDRESS;
    chip.core.LR = 0;
    chip.core.PC = BOOT_ADDRESS;
    this.attachUart(chip.uart[0]);
  }

  /** The emulator's transmitter takes no time and is never full; this one takes a byte's time and has the chip's FIFO. */
  attachUart(uart) {
    this.uart = uart;
    this.byteNs = 0;
    this.inFifo = [];
    this.received = [];
    uart.onBaudRateChange = (baud) => (this.byteNs = (BITS_PER_BYTE * 1e9) / baud);
    uart.onByte = (byte) => {
      const last = this.inFifo.length ? this.inFifo[this.inFifo.length - 1] : 0;
      const end = Math.max(this.nowNs, last) + this.byteNs;
      this.inFifo.push(end);
      this.sent.push([byte, end]);
      if ((byte === 0 || byte === LINE_FEED) && this.messageEndNs === Infinity) this.messageEndNs = end;
    };
    const receiverFlags = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(uart), "flags").get;
    Object.defineProperty(uart, "flags", {
      get: () => {
        while (this.inFifo.length && this.inFifo[0] <= this.nowNs) this.inFifo.shift();
        const waiting = this.inFifo.length - 1; // one is in the shift register
        const transmitter = (waiting >= TX_FIFO ? TX_FULL : 0) | (waiting < 0 ? TX_EMPTY : TX_BUSY) | (waiting === 0 ? TX_EMPTY : 0);
        return (receiverFlags.call(uart) & ~TX_EMPTY) | transmitter;
      },
    });
    this.receiveAlarm = this.clock.createAlarm(() => {
      const [byte] = this.received.shift();
      uart.feedByte(byte);
      this.scheduleReceive();
    });
  }

  /** Bytes from the host, the first bit of the first one at `atNs` or when the line is free. */
  receive(bytes, atNs) {
    const idle = this.received.length === 0;
    let end = Math.max(atNs, this.nextReceiveNs);
    for (const byte of bytes) {
      end += this.byteNs;
      this.received.push([byte, end]);
    }
    this.nextReceiveNs = end;
    if (idle) this.scheduleReceive();
  }

  scheduleReceive() {
    if (this.received.length) this.receiveAlarm.schedule(Math.max(0, this.received[0][1] - this.nowNs));
  }

  /** Bytes that have left the chip, with their times. */
  takeSent() {
    let count = 0;
    while (count < this.sent.length && this.sent[count][1] <= this.nowNs) ++count;
    const taken = this.sent.splice(0, count);
    const next = this.sent.find(([byte]) => byte === 0 || byte === LINE_FEED);
    this.messageEndNs = next ? next[1] : Infinity;
    return taken;
  }

  /** It sleeps, and no byte is on its way in either direction. */
  get isQuiet() {
    const last = this.sent.length ? this.sent[this.sent.length - 1][1] : 0;
    return this.chip.core.waiting && this.received.length === 0 && last <= this.nowNs;
  }

  pressReset() {
    this.chip.peripherals[0x40058].reason = 0;
    this.resetRequested = true;
  }

  /** Advances the chip's time to `untilNs`; `until` "quiet": until it is quiet, "message": to the end of a message. */
  run(untilNs, until = "") {
    let { clock } = this, { core } = this.chip;
    while (clock.nanosCounter < untilNs) {
      if (until === "message" && this.messageEndNs <= clock.nanosCounter) return;
      if (this.resetRequested) {
        this.start(this.chip);
        ({ clock } = this);
        ({ core } = this.chip);
      }
      if (core.waiting) {
        // The emulator forgets to wake up for SysTick, and for what was pending before it slept.
        if (core.pendingSystick || core.pendingInterrupts & core.enabledInterrupts) {
          core.waiting = false;
          core.interruptsUpdated = true;
          continue;
        }
        if (until === "quiet" && this.isQuiet) return;
        const stopNs = until === "message" ? Math.min(untilNs, this.messageEndNs) : untilNs;
        const next = clock.nextAlarm;
        clock.tick((next && next.nanos < stopNs ? next.nanos : stopNs) - clock.nanosCounter);
      } else {
        const cycles = core.executeInstruction();
        this.busyCycles += cycles;
        const to = clock.nanosCounter + (cycles * 1e9) / this.chip.clkSys;
        if (clock.nextAlarm && clock.nextAlarm.nanos <= to) clock.tick(to - clock.nanosCounter);
        else clock.nanosCounter = to;
      }
    }
  }
}

/** Follows the wall clock. A chip that has work to do may run ahead of it, so that timers of the host delay no byte. */
function serveRealTime(chip, input, output) {
  const SLICE_NS = 2 * MS, AHEAD_NS = 5 * MS, PERIOD_MS = 2;
  const started = performance.now();
  let timer = null;
  const pump = () => {
    clearTimeout(timer);
    clearImmediate(timer);
    const wallNs = (performance.now() - started) * MS;
    chip.run(Math.min(wallNs, chip.nowNs + SLICE_NS));
    const behind = chip.nowNs < wallNs;
    if (!behind) chip.run(wallNs + AHEAD_NS, "quiet");
    const bytes = chip.takeSent().map(([byte]) => byte);
    if (bytes.length) output.write(Buffer.from(bytes));
    timer = behind ? setImmediate(pump) : setTimeout(pump, PERIOD_MS);
  };
  input.on("data", (bytes) => {
    chip.receive(bytes, chip.nowNs);
    pump();
  });
  process.on("SIGUSR2", () => chip.pressReset());
  pump();
}

/**
 * The host's clock is the chip's. A request: u8 what (0 exchange, 1 reset button), u32 count of bytes, f64 time of their first bit,
 * f64 time to run to, the bytes. It runs to that time or to the end of a message from the chip. The reply: u32 count, f64 time reached, f64 cycles in which the processor did not sleep so far,
 * then for each byte that left the chip: u8 byte, f64 time of its last bit. All little-endian, times in ns since power on.
 */
function serveDeviceClock(chip) {
  const read = (size) => {
    const buffer = Buffer.alloc(size);
    for (let got = 0; got < size; ) {
      const count = readSync(0, buffer, got, size - got, null);
      if (count === 0) process.exit(0);
      got += count;
    }
    return buffer;
  };
  for (;;) {
    const head = read(21);
    const bytes = read(head.readUInt32LE(1));
    if (head[0] === 1) chip.pressReset();
    if (bytes.length) chip.receive(bytes, head.readDoubleLE(5));
    chip.run(head.readDoubleLE(13), "message");
    const sent = chip.takeSent();
    const reply = Buffer.alloc(20 + 9 * sent.length);
    reply.writeUInt32LE(sent.length, 0);
    reply.writeDoubleLE(chip.nowNs, 4);
    reply.writeDoubleLE(chip.busyCycles, 12);
    sent.forEach(([byte, atNs], index) => {
      reply[20 + 9 * index] = byte;
      reply.writeDoubleLE(atNs, 21 + 9 * index);
    });
    for (let done = 0; done < reply.length; ) done += writeSync(1, reply, done);
  }
}

const chip = new Chip(readUf2(imagePath));
if (settings.clock === "device") {
  serveDeviceClock(chip);
} else if (settings.listen_fd != null) {
  let started = false;
  const clients = { write: (bytes) => clients.current?.write(bytes) };
  const serve = (socket) => {
    socket.on("close", () => (clients.current = clients.current === socket ? null : clients.current));
    clients.current = socket;
    if (started) socket.on("data", (bytes) => clients.receive(bytes));
    else {
      started = true;
      const input = { on: (_, receive) => ((clients.receive = receive), socket.on("data", receive)) };
      serveRealTime(chip, input, clients);
    }
  };
  const refuse = (socket, user) => {
    socket.end(`busy: this board serves one program at a time, and ${user.remoteAddress}:${user.remotePort} uses it\r\n`);
    socket.resume(); // what it sent is read: closing would discard the line otherwise
  };
  const server = createServer((socket) => {
    socket.setNoDelay(true);
    socket.on("error", () => socket.destroy());
    if (!clients.current) serve(socket);
    else setTimeout(() => (clients.current ? refuse(socket, clients.current) : serve(socket)), CLOSE_MS);
  });
  server.listen({ fd: settings.listen_fd });
} else {
  process.stdin.on("end", () => process.exit(0));
  serveRealTime(chip, process.stdin, process.stdout);
}
