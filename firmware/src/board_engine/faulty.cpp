// The compact engine with the gallery's fault that the emulator selects.

#include "board_engine/board_engine.h"
#include "engine_int8/flashed_kernels.h"
#include "engine_int8/int8_engine.h"
#include "faults/faulty_conversion.h"
#include "faults/faulty_engine.h"
#include "hal_cortex/system.h"

namespace hil {
namespace {

template <int kNumber>
Place FaultyPlace() {
  const faults::Fault fault = faults::At(cortex::FaultNumber());
  Place place = board_engine::StaticPlace<Int8Engine, kNumber, FlashedKernels()>();
  static faults::FaultyEngine engine(fault, place.engine);
  static faults::FaultyConversion conversion(fault, &engine);
  place.engine = &engine;
  place.conversion = &conversion;
  return place;
}

}  // namespace

Place FirstPlace() { return FaultyPlace<0>(); }
Place SecondPlace() { return FaultyPlace<1>(); }

bool VerifiesAtStart() { return cortex::FaultNumber() == 0; }

}  // namespace hil
