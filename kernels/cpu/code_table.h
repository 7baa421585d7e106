/* Values of all e4m3 codes, and of all pairs of e2m1 codes in one byte (low nibble first). */
#ifndef SLUICE_KERNELS_CPU_CODE_TABLE_H
#define SLUICE_KERNELS_CPU_CODE_TABLE_H

#include <stdint.h>

extern const float code_table_e4m3[256];
extern const float code_table_e2m1[256][2];

/* Low bytes, then high bytes, of the bf16 values of codes 0 .. 127; a code's sign is bf16's. */
extern const uint8_t code_table_e4m3_bf16[2][128];

#endif
