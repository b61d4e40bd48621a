/*
 * The bytes that transfers are made of, on both sides: those of an offset in a stream
 * are known, and shifted or mixed up they do not match.
 */
#ifndef PATTERN_H
#define PATTERN_H

#include "vsock.h"

/* PATTERN_PERIOD is prime, so no packet and no buffer is as long. */
#define PATTERN_PERIOD 4093

/* pattern_make makes the pattern; before that there is none. */
void pattern_make(void);

/* pattern_at returns PAYLOAD_MAX bytes of the pattern from an offset on. */
const uint8_t *pattern_at(uint64_t offset);

/* same returns whether two areas of n bytes hold the same. */
bool same(const uint8_t *a, const uint8_t *b, size_t n);

#endif
