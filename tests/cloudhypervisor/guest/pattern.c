#include "pattern.h"

static uint8_t pattern[PATTERN_PERIOD + PAYLOAD_MAX];

void pattern_make(void)
{
	for (uint32_t i = 0; i < sizeof(pattern); i++) {
		uint32_t at = i % PATTERN_PERIOD;
		pattern[i] = (uint8_t)(at * 31 + (at >> 8));
	}
}

const uint8_t *pattern_at(uint64_t offset)
{
	return pattern + offset % PATTERN_PERIOD;
}

bool same(const uint8_t *a, const uint8_t *b, size_t n)
{
	bool equal;

	/* One instruction, for KVM may emulate each. Comparing with itself equals at n = 0. */
	__asm__ volatile("cmp %%al, %%al; repe cmpsb; sete %0"
			 : "=a"(equal), "+S"(a), "+D"(b), "+c"(n) : : "memory", "cc");
	return equal;
}
