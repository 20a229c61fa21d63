// The text line: numbers in, numbers out, for serial monitors and hosts without frame support.
//
// Instead of strtof and printf, whose newlib versions allocate memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "status/status.h"
#include "status/view.h"

namespace hil {

inline constexpr size_t kMaxNumberText = 16;  ///< longest result of FormatFloat: "-1.23456789e-38"

/// Parses `line`, comma-separated decimal numbers with optional blanks, into `values`; `*count` is their number.
/// "nan" and "inf" are parsed as such.
///
/// Returns kOk, kMalformedLine, kWrongCount (more than `capacity`).
Status ParseLine(const StringView& line, float* values, size_t capacity, size_t* count);

/// Removes and verifies a checksum `*hh` at the end of `line`, if present: XOR of the characters before it, in two hex digits.
///
/// Returns kOk, kLineDamaged.
Status TakeChecksum(StringView* line, bool* present);

/// Appends the checksum of `size` characters. Returns the new size: three more.
size_t AddChecksum(char* text, size_t size);

/// Writes `value` with nine significant digits, which identify a float32, to `out` (kMaxNumberText characters, not terminated).
/// Returns the number of characters. `value` must be finite.
size_t FormatFloat(float value, char* out);

}  // namespace hil
