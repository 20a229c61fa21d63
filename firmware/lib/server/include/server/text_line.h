// The text line: numbers in, numbers out, for serial monitors and hosts without frame support.
//
// Own code instead of strtof and printf: those of newlib allocate.
#pragma once

#include <cstddef>
#include <cstdint>

#include "status/status.h"
#include "status/view.h"

namespace hil {

inline constexpr size_t kMaxNumberText = 16;  ///< longest result of FormatFloat: "-1.23456789e-38"

/// Parses `line`, comma-separated decimal numbers with optional blanks, into `values`; `*count` is how many there were.
/// "nan" and "inf" are parsed as such.
///
/// Returns kOk, kMalformedLine, kWrongCount (more than `capacity`).
Status ParseLine(const StringView& line, float* values, size_t capacity, size_t* count);

/// Takes a checksum `*hh` off the end of `line`, where there is one: the XOR of the characters before it, in two hex digits.
///
/// Returns kOk, kLineDamaged.
Status TakeChecksum(StringView* line, bool* present);

/// Writes the checksum of `size` characters behind them. Returns the new size, three more.
size_t AddChecksum(char* text, size_t size);

/// Writes `value` with nine significant digits, which identify a float32, to `out` (kMaxNumberText characters, not terminated).
/// Returns how many were written. `value` must be finite.
size_t FormatFloat(float value, char* out);

}  // namespace hil
