/* Values of all e4m3 codes, and of all pairs of e2m1 codes in one byte (low nibble first). */
#ifndef SLUICE_KERNELS_CPU_CODE_TABLE_H
#define SLUICE_KERNELS_CPU_CODE_TABLE_H

extern const float code_table_e4m3[256];
extern const float code_table_e2m1[256][2];

#endif
